package coordinator

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"berth/fleet/gate"
	"berth/fleet/seal"
	"berth/internal/ocitest/engines"
	"berth/internal/secret"
)

const password = "canary-of-the-node"

// users are the lines of an ACL file for these nodes, as an operator would write them.
func users(nodes ...string) []string {
	var lines []string
	for _, n := range nodes {
		lines = append(lines, strings.Replace(ACL(n), "PASSWORD", password, 1))
	}
	return lines
}

func open(t *testing.T, r *engines.Redis, node, zone string) *Coordinator {
	t.Helper()
	c, err := New(Options{Address: r.Addr, Node: node, Zone: zone, Password: func() (secret.Text, error) { return secret.New(password), nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var (
	blob = Object{Name: strings.Repeat("ab", 16)}
	hash = Hash{1, 2, 3}
)

func TestCoordinator_LeaseHasOneHolder(t *testing.T) {
	r := engines.StartRedis(t, users("node-1", "node-2")...)
	a, b, ctx := open(t, r, "node-1", "z"), open(t, r, "node-2", "z"), t.Context()
	var wins []Holder
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 20 {
		for _, c := range []*Coordinator{a, b} {
			all.Go(func() {
				h, won, err := c.Take(ctx, blob, seal.NewWriting())
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				} else if won {
					wins = append(wins, h)
				}
			})
		}
	}
	all.Wait()
	if len(wins) != 1 {
		t.Fatalf("%d of 40 hold one lease", len(wins))
	}
	winner, loser := a, b
	if wins[0].Node == "node-2" {
		winner, loser = b, a
	}
	found, err := loser.Look(ctx, blob)
	if err != nil || found.Holder != wins[0] || len(found.Writers) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if held, err := winner.Renew(ctx, blob, wins[0].Writing); !held || err != nil {
		t.Errorf("renewed: %t, %v", held, err)
	}
	if held, err := loser.Renew(ctx, blob, wins[0].Writing); held || err != nil {
		t.Errorf("renewed by another: %t, %v", held, err)
	}
	next := Object{Name: blob.Name, Turn: 1}
	if h, won, err := loser.Take(ctx, next, seal.Writing{1}); !won || err != nil {
		t.Errorf("whoever passes a lease by does not get the next: %+v, %v", h, err)
	}
	if found, err := winner.Look(ctx, next); err != nil || found.Holder.Writing != (seal.Writing{1}) {
		t.Errorf("the next lease: %+v, %v", found, err)
	}
	if found, err := loser.Look(ctx, blob); err != nil || found.Holder != wins[0] {
		t.Errorf("the first lease, after the next was taken: %+v, %v", found, err)
	}
	if ttl := r.Do("pttl", "berth:lease:z:"+blob.Name); len(ttl) != 4 || ttl > "3000" {
		t.Errorf("the lease lives for another %s ms", ttl)
	}
	if err := loser.Release(ctx, blob, wins[0].Writing); err != nil || r.Do("exists", "berth:lease:z:"+blob.Name) != "1" {
		t.Errorf("another node has released it, %v", err)
	}
	if err := winner.Release(ctx, blob, wins[0].Writing); err != nil || r.Do("exists", "berth:lease:z:"+blob.Name) != "0" {
		t.Errorf("it is not released, %v", err)
	}
	if _, won, err := open(t, r, "node-2", "y").Take(ctx, blob, seal.NewWriting()); !won || err != nil {
		t.Errorf("another zone has to wait: %v", err)
	}
}

func TestCoordinator_ShowsWhatNodesPublish(t *testing.T) {
	r := engines.StartRedis(t, users("node-1", "node-2", "node-3")...)
	a, b, ctx := open(t, r, "node-1", "z"), open(t, r, "node-2", "z"), t.Context()
	w := seal.NewWriting()
	const size = 3<<20 + 1
	writing := Record{State: Writing, Writing: w, Size: size, Parts: []Hash{hash, {}, hash}}
	if err := a.Publish(ctx, blob, writing); err != nil {
		t.Fatal(err)
	}
	found, err := b.Look(ctx, blob)
	if err != nil || !reflect.DeepEqual(found, Found{Writers: []Writer{{"node-1", writing}}}) {
		t.Fatalf("%+v, %v", found, err)
	}
	done := Record{State: Done, Writing: w, Size: size, Parts: []Hash{hash, hash, hash, hash}}
	if err := b.Publish(ctx, blob, done); err != nil {
		t.Fatal(err)
	}
	if found, err = a.Look(ctx, blob); err != nil || !reflect.DeepEqual(found.Writers, []Writer{{"node-2", done}, {"node-1", writing}}) {
		t.Errorf("%+v, %v", found, err)
	}
	if found, err = open(t, r, "node-3", "y").Look(ctx, blob); err != nil || len(found.Writers) != 0 {
		t.Errorf("in another zone: %+v, %v", found, err)
	}

	manifest := Object{Name: strings.Repeat("cd", 16), Everywhere: true}
	whole := Record{State: Whole, Writing: w, Size: 5, Body: []byte("sealed")}
	if err := a.Publish(ctx, manifest, whole); err != nil {
		t.Fatal(err)
	}
	if found, err = open(t, r, "node-3", "y").Look(ctx, manifest); err != nil || !reflect.DeepEqual(found.Writers, []Writer{{"node-1", whole}}) {
		t.Errorf("a manifest in another zone: %+v, %v", found, err)
	}
	for key := range strings.FieldsSeq(r.Do("keys", "*")) {
		if r.Do("ttl", key) == "-1" {
			t.Errorf("%s never expires", key)
		}
	}
}

// A flush in the middle costs what was said before it.
func TestCoordinator_FlushedInTheMiddle(t *testing.T) {
	r := engines.StartRedis(t, users("node-1")...)
	c, ctx := open(t, r, "node-1", "z"), t.Context()
	rec := Record{State: Writing, Size: 2 << 20, Parts: []Hash{hash}}
	for range 2 {
		if err := c.Publish(ctx, blob, rec); err != nil {
			t.Fatal(err)
		}
		if found, err := c.Look(ctx, blob); err != nil || len(found.Writers) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
		r.Do("flushall")
		if found, err := c.Look(ctx, blob); err != nil || len(found.Writers) != 0 {
			t.Fatalf("after a flush: %+v, %v", found, err)
		}
	}
}

// A node's user speaks for itself only, and can neither list nor empty the engine.
func TestCoordinator_UserHasNarrowRights(t *testing.T) {
	r := engines.StartRedis(t, append(users("node-1", "node-10"), "user wide on >"+password+" ~* &* +@all")...)
	c, ctx := open(t, r, "node-1", "z"), t.Context()
	if err := c.CheckRights(ctx); err != nil {
		t.Errorf("the printed rights are too wide: %v", err)
	}
	if err := open(t, r, "wide", "z").CheckRights(ctx); err == nil || !strings.Contains(err.Error(), "another node's prefix") {
		t.Errorf("rights to everything are not noticed: %v", err)
	}
	for _, command := range []string{
		"SET berth:node:node-10:z:x y", "DEL berth:node:node-10:z:x", "PEXPIRE berth:node:node-10:z:x 1", "SET berth:node: y", "SET other y", "GETRANGE other 0 1",
		"KEYS *", "SCAN 0", "FLUSHALL", "FLUSHDB", "EVAL return\\ 1 0", "FUNCTION LIST", "FCALL f 0", "INFO", "CONFIG GET *", "ACL LIST", "CLIENT LIST", "MONITOR",
		"PUBLISH x y", "SORT berth:who:z:x", "COPY berth:who:z:x berth:node:node-10:z:x", "RENAME berth:who:z:x berth:node:node-10:z:x",
		"GET berth:node:node-10:z:x", "APPEND berth:who:z:x y", "DUMP berth:who:z:x", "SELECT 1", "SWAPDB 0 1", "SHUTDOWN", "REPLICAOF NO ONE",
	} {
		_, err := c.ask(ctx, func(b valkey.Builder) valkey.Commands {
			f := strings.Fields(command)
			return valkey.Commands{b.Arbitrary(f[0]).Args(f[1:]...).Build()}
		})
		if err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("%s: %v", command, err)
		}
	}
	if strings.Contains(r.Do("keys", "*"), "node-10") {
		t.Error("a key of another node's was written")
	}
}

func TestCoordinator_SlotsAreFew(t *testing.T) {
	r := engines.StartRedis(t, users("node-1")...)
	c, ctx := open(t, r, "node-1", "z"), t.Context()
	var releases []func(context.Context) error
	for i := range 6 {
		release, ok, err := c.Slot(ctx, 4, time.Minute)
		if err != nil || ok != (i < 4) {
			t.Fatalf("slot %d: %t, %v", i, ok, err)
		}
		if ok {
			releases = append(releases, release)
		}
	}
	if err := releases[2](ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := c.Slot(ctx, 4, time.Minute); !ok || err != nil {
		t.Errorf("a slot that was given back: %t, %v", ok, err)
	}
	if err := releases[2](ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := c.Slot(ctx, 4, time.Minute); ok || err != nil {
		t.Errorf("giving back twice has taken another's slot: %t, %v", ok, err)
	}
}

// A coordinator that died or hangs costs the first caller a second at most, the next
// nothing, and is found when it is back.
func TestCoordinator_IsLeftAloneWhileAway(t *testing.T) {
	for what, end := range map[string]struct{ away, back func(*engines.Redis) }{
		"dead":   {func(r *engines.Redis) { r.Stop() }, func(r *engines.Redis) { r.Start() }},
		"frozen": {func(r *engines.Redis) { r.Freeze() }, func(r *engines.Redis) { r.Thaw() }},
	} {
		t.Run(what, func(t *testing.T) {
			r := engines.StartRedis(t, users("node-1")...)
			c, ctx := open(t, r, "node-1", "z"), t.Context()
			if _, err := c.Look(ctx, blob); err != nil {
				t.Fatal(err)
			}
			end.away(r)
			if _, err := c.Look(ctx, blob); err == nil || errors.Is(err, gate.ErrAway) {
				t.Fatalf("the first: %v", err)
			}
			if _, err := c.Look(ctx, blob); !errors.Is(err, gate.ErrAway) {
				t.Fatalf("the second: %v", err)
			}
			end.back(r)
			for range time.Tick(10 * time.Millisecond) {
				if _, err := c.Look(ctx, blob); err == nil {
					break
				} else if !errors.Is(err, gate.ErrAway) {
					t.Fatal(err)
				}
			}
		})
	}
}

// Nobody listens there at first: making one asks nothing, and it is found later.
func TestCoordinator_StartsWithoutItsEngine(t *testing.T) {
	r := engines.StartRedis(t, users("node-1")...)
	r.Stop()
	c, ctx := open(t, r, "node-1", "z"), t.Context()
	if _, err := c.Look(ctx, blob); err == nil || errors.Is(err, gate.ErrAway) {
		t.Fatal(err)
	}
	r.Start()
	for range time.Tick(10 * time.Millisecond) {
		if _, err := c.Look(ctx, blob); err == nil {
			break
		} else if !errors.Is(err, gate.ErrAway) {
			t.Fatal(err)
		}
	}
}

func TestCoordinator_RefusedPassword(t *testing.T) {
	r := engines.StartRedis(t, users("node-1")...)
	c, err := New(Options{Address: r.Addr, Node: "node-1", Zone: "z", Password: func() (secret.Text, error) { return secret.New("canary-wrong"), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Look(t.Context(), blob); err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Error(err)
	}
}

// What other nodes write is garbage at worst: it is not read, and never read beyond
// its bounds.
func TestCoordinator_Garbage(t *testing.T) {
	r := engines.StartRedis(t, users("node-1", "node-2")...)
	c, ctx := open(t, r, "node-1", "z"), t.Context()
	w := seal.NewWriting().String()
	long := strings.Repeat("x", 100_000)
	for i, v := range []string{"", " ", "node-2", "node-2 " + w + "0", "node-2 " + strings.ToUpper(w), "NODE " + w, "node:2 " + w, long, "node-2 " + w + long, "\x01\xff"} {
		r.Do("set", "berth:lease:z:"+blob.Name, v)
		r.Do("set", "berth:who:z:"+blob.Name, "node-2 node-2 * ../x NODE "+strings.Repeat("a", 64)+" "+long)
		for _, record := range []string{"", "x", long, fmt.Sprint(i)} {
			r.Do("set", "berth:node:node-2:z:"+blob.Name, record)
			found, err := c.Look(ctx, blob)
			if err != nil || found.Holder != (Holder{}) || found.Writers != nil {
				t.Errorf("lease %.60q: %+v, %v", v, found, err)
			}
		}
	}
	r.Do("del", "berth:who:z:"+blob.Name)
	r.Do("lpush", "berth:who:z:"+blob.Name, "x") // of another type: an error, and no news about others
	if _, err := c.Look(ctx, blob); err == nil {
		t.Error("a list is read as a text")
	}
}

func TestRecord_RefusesWhatNobodyWrites(t *testing.T) {
	many := make([]Hash, 5)
	for what, r := range map[string]Record{
		"no state": {Size: 1}, "unknown state": {State: 4, Size: 1}, "negative size": {State: Writing, Size: -1}, "too large": {State: Writing, Size: seal.MaxSize + 1},
		"more parts than it has": {State: Writing, Size: 4 << 20, Parts: many}, "done without all parts": {State: Done, Size: 2 << 20, Parts: []Hash{hash}},
		"done with a gap": {State: Done, Size: 2 << 20, Parts: []Hash{hash, {}}}, "long body": {State: Whole, Size: 1, Body: make([]byte, MaxBody+1)},
	} {
		if _, err := r.encode(); err == nil {
			t.Errorf("%s: published", what)
		}
	}
	for _, r := range []Record{
		{State: Writing, Size: seal.MaxSize, Parts: slices.Repeat([]Hash{hash}, seal.MaxParts), Writing: seal.NewWriting()},
		{State: Done, Parts: []Hash{}}, {State: Whole, Size: 1, Body: make([]byte, MaxBody)},
	} {
		b, err := r.encode()
		if err != nil || len(b) > max(maxRecord, headerSize+MaxBody) {
			t.Errorf("%d bytes, %v", len(b), err)
			continue
		}
		if got, err := decodeRecord(b); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("it comes back as %+v, %v", got.State, err)
		}
	}
}

// What decodes is exactly what encoding it gives, and within bounds.
func FuzzRecord(f *testing.F) {
	for _, r := range []Record{{State: Writing, Size: 9 << 20, Parts: []Hash{hash, {}}}, {State: Done, Size: 1, Parts: []Hash{hash}}, {State: Whole, Size: 1, Body: []byte("b")}} {
		b, err := r.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		if len(r.Parts) > seal.Parts(r.Size) || len(r.Body) > MaxBody || r.Size < 0 || r.Size > seal.MaxSize {
			t.Fatalf("beyond its bounds: %+v", r)
		}
		if again, err := r.encode(); err != nil || string(again) != string(b) {
			t.Fatalf("%x comes back as %x, %v", b, again, err)
		}
	})
}

func FuzzHolder(f *testing.F) {
	f.Add("node-1 "+seal.Writing{}.String(), "node-1 node-2")
	f.Fuzz(func(t *testing.T, holder, who string) {
		if h, ok := parseHolder(holder); ok && (h.String() != holder || len(holder) > maxHolder) {
			t.Fatalf("%q is read as %q", holder, h)
		}
		nodes := parseWho(who)
		if len(nodes) > maxWriters || len(strings.Join(nodes, " ")) > maxWho {
			t.Fatalf("%d nodes", len(nodes))
		}
		for _, n := range nodes {
			if seal.CheckName(n) != nil {
				t.Fatalf("%q is taken for a node", n)
			}
		}
	})
}

func TestNew_RefusesBadNames(t *testing.T) {
	good := Options{Address: "h:1", Node: "node-1", Zone: "fra1"}
	for what, change := range map[string]func(*Options){
		"no node": func(o *Options) { o.Node = "" }, "a pattern": func(o *Options) { o.Node = "*" }, "a colon": func(o *Options) { o.Node = "a:b" },
		"upper case": func(o *Options) { o.Node = "Node" }, "all": func(o *Options) { o.Zone = "all" }, "long": func(o *Options) { o.Zone = strings.Repeat("a", 64) },
		"no port": func(o *Options) { o.Address = "h" }, "two lines": func(o *Options) { o.Node = "a\nuser b" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	c, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
