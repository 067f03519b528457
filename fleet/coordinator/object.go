package coordinator

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valkey-io/valkey-go"

	"berth/fleet/seal"
)

const (
	everywhere = seal.Everywhere
	// maxWriters is how many nodes' records of an object are looked at.
	maxWriters = 4
	maxWho     = maxWriters * 64 // names with a space after each
	maxHolder  = 63 + 1 + 32
)

// Object is what nodes share.
type Object struct {
	Name string // as seal.Scope names it
	// Everywhere says that all zones share it, as they do manifests; otherwise only
	// this node's zone does.
	Everywhere bool
	// Turn says which of its leases is meant. Who passes the first by takes the next.
	Turn int
}

// key is "<prefix><where>:<name>".
func (c *Coordinator) key(prefix string, o Object) string {
	where := c.zone
	if o.Everywhere {
		where = everywhere
	}
	return prefix + where + ":" + o.Name
}

func (c *Coordinator) leaseKey(o Object) string {
	key := c.key("berth:lease:", o)
	if o.Turn > 0 {
		key += "." + strconv.Itoa(o.Turn)
	}
	return key
}

func (c *Coordinator) whoKey(o Object) string { return c.key("berth:who:", o) }
func (c *Coordinator) recordKey(node string, o Object) string {
	return c.key("berth:node:"+node+":", o)
}

// Holder is who has an object's lease.
type Holder struct {
	Node    string
	Writing seal.Writing
}

func (h Holder) String() string { return h.Node + " " + h.Writing.String() }

// parseHolder reads what anybody may have written.
func parseHolder(s string) (Holder, bool) {
	node, writing, _ := strings.Cut(s, " ")
	w, err := seal.ParseWriting(writing)
	if err != nil || seal.CheckName(node) != nil {
		return Holder{}, false
	}
	return Holder{Node: node, Writing: w}, true
}

// Writer is a node and what it says.
type Writer struct {
	Node string
	Record
}

// Found is what is known about an object.
type Found struct {
	// Holder fetches it just now: its lease is alive, and it renews that only while
	// bytes move. The zero Holder is nobody.
	Holder Holder
	// Writers have written it, or are writing it: the last first, at most five.
	Writers []Writer
}

// Look asks about an object: one round trip where nobody has it, two where somebody
// does.
func (c *Coordinator) Look(ctx context.Context, o Object) (Found, error) {
	var found Found
	hints, err := c.do(ctx, "looking", func(b valkey.Builder) valkey.Commands {
		return valkey.Commands{
			b.Getrange().Key(c.leaseKey(o)).Start(0).End(maxHolder).Build(),
			b.Getrange().Key(c.whoKey(o)).Start(0).End(maxWho).Build(),
		}
	})
	if err != nil {
		return found, err
	}
	found.Holder, _ = parseHolder(text(hints[0]))
	nodes := parseWho(text(hints[1]))
	if n := found.Holder.Node; n != "" && !slices.Contains(nodes, n) {
		nodes = append([]string{n}, nodes...)
	}
	if len(nodes) == 0 {
		return found, nil
	}
	records, err := c.do(ctx, "looking", func(b valkey.Builder) valkey.Commands {
		var all valkey.Commands
		for _, n := range nodes {
			all = append(all, b.Getrange().Key(c.recordKey(n, o)).Start(0).End(max(maxRecord, headerSize+MaxBody)).Build())
		}
		return all
	})
	if err != nil {
		return found, err
	}
	for i, n := range nodes {
		if r, err := decodeRecord([]byte(text(records[i]))); err == nil {
			found.Writers = append(found.Writers, Writer{Node: n, Record: r})
		}
	}
	return found, nil
}

// Publish says something about an object under this node's own prefix, for as long as
// its state is kept, and puts the node first among those who did.
func (c *Coordinator) Publish(ctx context.Context, o Object, r Record) error {
	value, err := r.encode()
	if err != nil {
		return err
	}
	keep := keepWriting
	switch r.State {
	case Done:
		keep = KeepDone
	case Whole:
		keep = keepWhole
	}
	answers, err := c.do(ctx, "publishing", func(b valkey.Builder) valkey.Commands {
		return valkey.Commands{
			b.Set().Key(c.recordKey(c.node, o)).Value(string(value)).Px(keep).Build(),
			b.Getrange().Key(c.whoKey(o)).Start(0).End(maxWho).Build(),
			b.Pexpire().Key(c.whoKey(o)).Milliseconds(KeepDone.Milliseconds()).Build(),
		}
	})
	if err != nil {
		return err
	}
	// Two nodes that do this at once may forget one of them, until its next part.
	who := parseWho(text(answers[1]))
	if len(who) > 0 && who[0] == c.node {
		return nil
	}
	who = append([]string{c.node}, slices.DeleteFunc(who, func(n string) bool { return n == c.node })...)
	who = who[:min(len(who), maxWriters)]
	_, err = c.do(ctx, "publishing", func(b valkey.Builder) valkey.Commands {
		return valkey.Commands{b.Set().Key(c.whoKey(o)).Value(strings.Join(who, " ")).Px(KeepDone).Build()}
	})
	return err
}

// parseWho reads what anybody may have written: nodes' names, each once.
func parseWho(s string) []string {
	var nodes []string
	for n := range strings.FieldsSeq(s) {
		if seal.CheckName(n) == nil && !slices.Contains(nodes, n) && len(nodes) < maxWriters {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Take takes the lease of an object, if nobody has it; otherwise it returns who does.
func (c *Coordinator) Take(ctx context.Context, o Object, w seal.Writing) (Holder, bool, error) {
	mine := Holder{Node: c.node, Writing: w}
	answers, err := c.do(ctx, "taking a lease", func(b valkey.Builder) valkey.Commands {
		return valkey.Commands{
			b.Set().Key(c.leaseKey(o)).Value(mine.String()).Nx().Px(LeaseTime).Build(),
			b.Getrange().Key(c.leaseKey(o)).Start(0).End(maxHolder).Build(),
		}
	})
	if err != nil {
		return Holder{}, false, err
	}
	h, _ := parseHolder(text(answers[1]))
	return h, h == mine, nil
}

// Renew prolongs the lease, and says whether it is still this node's. It is for while
// bytes move, and for no longer. Where another node has it by now, that one's is
// prolonged by mistake, once.
func (c *Coordinator) Renew(ctx context.Context, o Object, w seal.Writing) (bool, error) {
	answers, err := c.do(ctx, "renewing a lease", func(b valkey.Builder) valkey.Commands {
		return valkey.Commands{
			b.Pexpire().Key(c.leaseKey(o)).Milliseconds(LeaseTime.Milliseconds()).Build(),
			b.Getrange().Key(c.leaseKey(o)).Start(0).End(maxHolder).Build(),
		}
	})
	if err != nil {
		return false, err
	}
	h, _ := parseHolder(text(answers[1]))
	return h == Holder{Node: c.node, Writing: w}, nil
}

// Release gives the lease back, if it is still this node's.
func (c *Coordinator) Release(ctx context.Context, o Object, w seal.Writing) error {
	return c.releaseKey(ctx, c.leaseKey(o), Holder{Node: c.node, Writing: w}.String())
}

// releaseKey deletes a key that still has that value. Between the look and the
// deletion the key may change hands; whoever loses it so fetches a copy more.
func (c *Coordinator) releaseKey(ctx context.Context, key, value string) error {
	answers, err := c.do(ctx, "releasing", func(b valkey.Builder) valkey.Commands {
		return valkey.Commands{b.Getrange().Key(key).Start(0).End(maxHolder).Build()}
	})
	if err != nil || text(answers[0]) != value {
		return err
	}
	_, err = c.do(ctx, "releasing", func(b valkey.Builder) valkey.Commands {
		return valkey.Commands{b.Del().Key(key).Build()}
	})
	return err
}

// Slot takes one of the zone's n slots for at most hold. Without one, ok is false. A
// slot that was taken is given back by calling release.
func (c *Coordinator) Slot(ctx context.Context, n int, hold time.Duration) (release func(context.Context) error, ok bool, err error) {
	value, first := seal.NewWriting().String(), rand.IntN(n)
	for i := range n {
		key := c.key("berth:slot:", Object{Name: strconv.Itoa((first + i) % n)})
		answers, err := c.do(ctx, "taking a slot", func(b valkey.Builder) valkey.Commands {
			return valkey.Commands{b.Set().Key(key).Value(value).Nx().Px(hold).Build()}
		})
		if err != nil {
			return nil, false, err
		}
		if text(answers[0]) == "OK" {
			return func(ctx context.Context) error { return c.releaseKey(ctx, key, value) }, true, nil
		}
	}
	return nil, false, nil
}

// text is the reply as a text; none is empty.
func text(r valkey.ValkeyResult) string {
	s, err := r.ToString()
	if err != nil {
		return ""
	}
	return s
}
