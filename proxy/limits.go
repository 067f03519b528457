package proxy

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"berth/oci"
)

// waitInLine is how long a request waits for its organisation's turn. A burst
// that is over in seconds goes unnoticed, and there is time left to answer
// before clients give up on the header.
const waitInLine = 5 * time.Second

// Limits bounds how many things of each organisation go on at once, so that one
// which asks for everything at the same time takes nothing from the others. What
// is too much waits in a line of the organisation's own, first come first served;
// then it gets 503 and the time to try again.
//
// The zero Limits limits nobody, a nil one neither. Safe for concurrent use; it
// outlives handlers, so that a new configuration forgets nothing that runs.
type Limits struct {
	// Wait is how long one waits in line at most. If 0, 5 s.
	Wait time.Duration
	// Line is how many wait at most. If 0, as many as the limit.
	Line int
	// What the limit counts and its key, for the answer. If empty, requests.
	What, Key string

	mu     sync.Mutex
	shares map[string]*share
}

// share is one organisation's. All of it is under Limits.mu.
type share struct {
	limit   int
	running int
	line    []chan struct{} // closed, from the front, when a turn comes
}

// Set makes limits, by organisation, those that hold from now on. Requests that
// are being answered go on; who is not in limits has none.
func (l *Limits) Set(limits map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shares == nil {
		l.shares = make(map[string]*share, len(limits))
	}
	for organisation, limit := range limits {
		if s := l.shares[organisation]; s != nil {
			s.limit = limit
			s.admit()
		} else {
			l.shares[organisation] = &share{limit: limit}
		}
	}
	for organisation, s := range l.shares {
		if _, ok := limits[organisation]; ok {
			continue
		}
		s.limit = math.MaxInt
		s.admit()
		delete(l.shares, organisation)
	}
}

// enter waits for organisation's turn. Without an error, the caller gives what
// it got to leave. Nil: nothing limits it.
func (l *Limits) enter(ctx context.Context, organisation string) (*share, error) {
	if l == nil {
		return nil, nil //nolint:nilnil // unlimited
	}
	s, turn, err := l.stand(organisation)
	if turn == nil {
		return s, err
	}
	timer := time.NewTimer(cmp.Or(l.Wait, waitInLine))
	defer timer.Stop()
	select {
	case <-turn:
		return s, nil
	case <-timer.C:
		err = l.tooMany(organisation, s)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if l.giveUp(s, turn) {
		return nil, err
	}
	return s, nil // the turn came just now
}

// Turn is enter for others than the handler: it waits for organisation's turn,
// which lasts until end is called.
func (l *Limits) Turn(ctx context.Context, organisation string) (end func(), err error) {
	s, err := l.enter(ctx, organisation)
	if err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() { l.leave(s) }), nil
}

// stand takes a place among those that run or, with a turn to wait for, those
// that wait.
func (l *Limits) stand(organisation string) (s *share, turn chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s = l.shares[organisation]
	switch {
	case s == nil:
		return nil, nil, nil
	case s.running < s.limit:
		s.running++
		return s, nil, nil
	case len(s.line) >= cmp.Or(l.Line, s.limit):
		return nil, nil, l.refusal(organisation, s.limit)
	}
	turn = make(chan struct{})
	s.line = append(s.line, turn)
	return s, turn, nil
}

// giveUp leaves the line, unless the turn has come.
func (l *Limits) giveUp(s *share, turn chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(s.line, turn)
	if i < 0 {
		return false
	}
	s.line = slices.Delete(s.line, i, i+1)
	return true
}

// leave ends what enter began.
func (l *Limits) leave(s *share) {
	if s == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.running--
	s.admit()
}

// admit lets in who is first while there is room. Caller holds mu.
func (s *share) admit() {
	for len(s.line) > 0 && s.running < s.limit {
		s.running++
		close(s.line[0])
		s.line = slices.Delete(s.line, 0, 1)
	}
}

func (l *Limits) tooMany(organisation string, s *share) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusal(organisation, s.limit)
}

// refusal is no 429, which everyone takes for the registry's limit, and its code
// is one after which dockerd tries again: after DENIED and TOOMANYREQUESTS it
// does not (retryOnError in moby's distribution/errors.go).
func (l *Limits) refusal(organisation string, limit int) error {
	return &oci.Error{
		Class: oci.Policy, Status: http.StatusServiceUnavailable, Code: oci.CodeUnknown,
		Message: fmt.Sprintf("organisation %s: %d of its %s go on at once on this node, and more wait; that is its limit (%s): pull again in a moment, or ask whoever runs the node to raise it",
			organisation, limit, cmp.Or(l.What, "requests"), cmp.Or(l.Key, "limits.requests")),
		RetryAfter: waitInLine,
	}
}
