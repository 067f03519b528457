package download

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"berth/cache/store"
	"berth/oci"
)

// legal are the moves of the design, written down once more.
var legal = map[State][]State{
	Starting: {Fetching, Failed},
	Fetching: {Open, Verified, Parked, Failed},
	Open:     {Verified, Parked, Failed},
	Verified: {Done},
	Parked:   {},
	Failed:   {},
	Done:     {},
}

func allowed(from, to State) bool {
	return slices.Contains(legal[from], to)
}

// newStore is a store with a limit, in a folder of its own.
func newStore(t *testing.T) func() *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{MaxSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return func() *store.Store { return s }
}

// nobody is a Reporter that does nothing.
type nobody struct{}

func (nobody) Corrupt(Key, []oci.Principal) {}
func (nobody) Sound(Key)                    {}
func (nobody) DiskFailed(Key, int64, error) {}
func (nobody) Reserved(Key, int64)          {}
func (nobody) Kept()                        {}

// model is what a download that has moved must look like from outside.
type model struct {
	t     *Table
	d     *Download
	state State
	slots int // that are taken
}

func newModel(tb rapid.TB, table *Table, n int) *model {
	m := &model{t: table, state: Starting, slots: 1}
	key := Key{Origin: "registry.example", Digest: oci.DigestOf(fmt.Append(nil, n))}
	d := &Download{
		table: table, key: key, account: store.Account{Organisation: "globex", Own: true}, state: Starting, shown: Starting, changed: make(chan struct{}),
		wake: make(chan struct{}, 1), readers: map[*Reader]struct{}{},
	}
	d.slot = &slot{release: func() {
		m.slots--
		select {
		case <-d.changed:
			tb.Error("readers were woken before the slot was given back")
		default:
		}
		d.mu.Lock()
		shown := d.shown
		d.mu.Unlock()
		if shown.Final() {
			tb.Error("readers could see the end before the slot was given back")
		}
		if table.all[key] == d {
			tb.Error("the slot was given back while the download was in the table")
		}
	}}
	m.d = d
	table.all[key] = d
	return m
}

// move tries one move and says whether it went well.
func (m *model) move(tb rapid.TB, to State) {
	tb.Helper()
	if m.d.blocks == nil && m.state == Fetching {
		blocks, err := m.t.o.Store().NewBlocks(m.d.account, m.d.key.Origin, m.d.key.Digest, 1<<20)
		if err != nil {
			tb.Fatal(err)
		}
		m.d.blocks = blocks
	}
	want := allowed(m.state, to) && (to != Parked || len(m.d.readers) == 0)
	before := m.d.changed
	var why error
	if to == Failed {
		why = errors.New("the registry is gone")
	}
	if got := m.d.move(to, why); got != want {
		tb.Fatalf("from %s to %s: %v, want %v", m.state, to, got, want)
	}
	select {
	case <-before:
		if !want {
			tb.Errorf("from %s to %s: readers were woken for nothing", m.state, to)
		}
	default:
		if want {
			tb.Errorf("from %s to %s: nobody was woken", m.state, to)
		}
	}
	if want {
		m.state = to
	}
	m.check(tb)
}

func (m *model) check(tb rapid.TB) {
	tb.Helper()
	if m.d.state != m.state || m.d.shown != m.state {
		tb.Fatalf("it is %s and shows %s, want %s", m.d.state, m.d.shown, m.state)
	}
	over := m.state == Parked || m.state == Failed || m.state == Done
	if there := m.t.all[m.d.key] == m.d; there == over {
		tb.Errorf("%s: in the table: %v", m.state, there)
	}
	if taken := m.slots == 1; taken == over {
		tb.Errorf("%s: the slot is taken: %v", m.state, taken)
	}
	if over && m.state != Done { // what is done was verified, which ends its share: see package store
		b, err := m.t.o.Store().NewBlocks(m.d.account, "another", m.d.key.Digest, 8<<20) // an eighth
		if err != nil {
			tb.Fatalf("%s: the share is taken: %v", m.state, err)
		}
		b.Discard()
	}
	if m.state == Failed && m.d.err == nil {
		tb.Error("it failed for no reason")
	}
}

// Every walk through the states, legal and illegal moves mixed, keeps to the table
// of legal moves, and whatever ends a download gives all back, once, before anyone
// is woken.
func TestState_Moves(t *testing.T) {
	s := newStore(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		table := NewTable(Options{Store: s, Report: nobody{}})
		defer table.Close()
		n++
		m := newModel(rt, table, n)
		if rapid.Bool().Draw(rt, "a reader") {
			m.d.readers[&Reader{}] = struct{}{}
		}
		for range rapid.IntRange(1, 12).Draw(rt, "moves") {
			to := State(rapid.IntRange(int(Starting), int(Done)).Draw(rt, "to"))
			if to == Failed && !allowed(m.state, Failed) {
				continue // only a worker that runs fails a download
			}
			if rapid.Bool().Draw(rt, "the reader leaves") {
				clear(m.d.readers)
			}
			m.move(rt, to)
		}
		if m.d.blocks != nil {
			m.d.blocks.Discard()
		}
	})
}

// Each pair of states, once.
func TestState_Pairs(t *testing.T) {
	for from := Starting; from <= Done; from++ {
		for to := Starting; to <= Done; to++ {
			got := slices.Contains(from.after(), to)
			if got != allowed(from, to) {
				t.Errorf("from %s to %s: %v", from, to, got)
			}
		}
		if final := len(legal[from]) == 0; from.Final() != final {
			t.Errorf("%s is final: %v", from, from.Final())
		}
	}
}
