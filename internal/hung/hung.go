// Package hung puts a limit to what nothing can interrupt. A system call on a disk
// that died, or on a network filesystem whose server is gone, does not return, and no
// context ends it. Here it is left behind after a while: whoever waited goes on without
// it, it is not tried again as long as it hangs, and people can be told what hangs.
package hung

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// Limit is how long a file may take: far more than any disk that works.
	Limit = 2 * time.Second
	// most bounds what is left behind at once, since each has a thread of its own.
	// What is beyond is not tried before one of them has returned.
	most = 16
)

// Table knows what hangs. It is safe for concurrent use. A nil Table waits for ever,
// which is right for a command that a person can interrupt.
type Table struct {
	// Fault is called before each operation. Only a test has one, which hangs.
	Fault func(what string)

	mu      sync.Mutex
	hanging map[string]*Operation
}

// Operation is one that hangs.
type Operation struct {
	// What is the file, folder or program.
	What string
	// Since is when it began.
	Since time.Time

	runs int // how many were left behind
}

// Error is why there is no result. Since is zero where it was not tried, as too much
// else hangs.
type Error struct {
	What  string
	Since time.Time
}

// Error says what to do.
func (e *Error) Error() string {
	if e.Since.IsZero() {
		return e.What + " is not looked at, since too many other files do not answer (berth status names them): see to the disks or servers that they are on"
	}
	return fmt.Sprintf("%s does not answer for %v: see to the disk or server that it is on", e.What, max(time.Since(e.Since).Round(time.Second), time.Second))
}

// List is what hangs, in order.
func (t *Table) List() []Operation {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Operation, 0, len(t.hanging))
	for _, o := range t.hanging {
		all = append(all, *o)
	}
	slices.SortFunc(all, func(a, b Operation) int { return cmp.Compare(a.What, b.What) })
	return all
}

// Do runs f, which is about what, and waits for it for limit at most; its error is f's
// or an *Error.
func Do[T any](t *Table, limit time.Duration, what string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	r := Each(t, limit, []string{what}, func(string) result {
		value, err := f()
		return result{value, err}
	})[0]
	if !r.OK {
		return r.Value.value, t.why(what)
	}
	return r.Value.value, r.Value.err
}

// why is the error for what has no result.
func (t *Table) why(what string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.hanging[what]; o != nil {
		return &Error{what, o.Since}
	}
	if len(t.hanging) >= most {
		return &Error{What: what}
	}
	return &Error{what, time.Now()} // it has just returned
}

// Result is what came of one thing. OK false: nothing did, it hangs.
type Result[T any] struct {
	Value T
	OK    bool
}

// Each runs f for each of whats, one after the other, and gives the results in their
// order. There is none for those that take longer than limit, or hang already.
func Each[T any](t *Table, limit time.Duration, whats []string, f func(what string) T) []Result[T] {
	results := make([]Result[T], len(whats))
	if t == nil {
		for i, what := range whats {
			results[i] = Result[T]{f(what), true}
		}
		return results
	}
	for len(whats) > 0 && t.mayTry() {
		w := &worker[T]{t: t, whats: whats, results: results[len(results)-len(whats):], done: make(chan struct{})}
		go w.run(f)
		whats = w.wait(limit)
	}
	return results
}

func (t *Table) mayTry() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.hanging) < most
}

// hangs reports whether what is hanging now.
func (t *Table) hangs(what string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hanging[what] != nil
}

// leave notes that a run for what is left behind.
func (t *Table) leave(what string, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hanging == nil {
		t.hanging = map[string]*Operation{}
	}
	if t.hanging[what] == nil {
		t.hanging[what] = &Operation{What: what, Since: since}
	}
	t.hanging[what].runs++
}

// returned notes that such a run has ended after all.
func (t *Table) returned(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hanging[what].runs--; t.hanging[what].runs == 0 {
		delete(t.hanging, what)
	}
}

// worker runs one Each, until it is left behind with what hangs.
type worker[T any] struct {
	t     *Table
	whats []string
	done  chan struct{} // closed when all were tried

	mu      sync.Mutex  // guards all below
	results []Result[T] // of whats
	at      int         // in whats
	since   time.Time
	left    bool
}

func (w *worker[T]) run(f func(what string) T) {
	for i, what := range w.whats {
		if w.t.hangs(what) {
			continue
		}
		w.mu.Lock()
		w.at, w.since = i, time.Now()
		w.mu.Unlock()
		if w.t.Fault != nil {
			w.t.Fault(what)
		}
		result := f(what)
		w.mu.Lock()
		left := w.left
		if !left {
			w.results[i] = Result[T]{result, true}
			w.since = time.Time{}
		}
		w.mu.Unlock()
		if left {
			w.t.returned(what)
			return
		}
	}
	close(w.done)
}

// wait waits for the worker, and gives what is still to be tried when it hangs.
func (w *worker[T]) wait(limit time.Duration) (rest []string) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-w.done:
			return nil
		case <-timer.C:
		}
		w.mu.Lock()
		took := time.Since(w.since)
		if !w.since.IsZero() && took >= limit {
			w.left = true
			w.t.leave(w.whats[w.at], w.since)
			w.mu.Unlock()
			return w.whats[w.at+1:]
		}
		w.mu.Unlock()
		if took > limit { // it is between two
			took = 0
		}
		timer.Reset(limit - took)
	}
}
