// Package limit is admission control: it bounds how many things go on at once
// for each of several parties, so that one of them that asks for everything at
// the same time takes nothing from the others.
package limit

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

// defaultWait lets a burst that is over in seconds go unnoticed, and leaves time
// to answer before clients give up on the header of an answer.
const defaultWait = 5 * time.Second

// Limiter bounds what each organisation does at once. What is too much waits in
// a queue of the organisation's own, first come first served; after that it gets
// 503 and the time to try again.
//
// The zero Limiter limits nobody, and so does a nil one. It outlives
// configurations, which change its limits while requests run. Safe for
// concurrent use.
type Limiter struct {
	// Wait is how long Acquire waits at most. If 0, 5 s.
	Wait time.Duration
	// Queue is how many of one organisation wait at most. If 0, as many as its
	// limit.
	Queue int
	// What is counted, and the configuration key of its limit, for the error. If
	// empty, requests.
	What, Key string

	mu     sync.Mutex
	quotas map[string]*quota // by organisation; who has none is not limited
}

// quota is one organisation's, and guarded by the limiter's mutex.
type quota struct {
	limit   int
	running int
	queue   []chan struct{} // the longest waiting first; closed on admission
}

// Slot is the right to run until Release. The zero Slot is nobody's.
type Slot struct {
	limiter *Limiter
	quota   *quota
}

// SetLimits replaces the limits, by organisation. What runs goes on and counts
// under the new limit; an organisation that is not in limits is not limited.
func (l *Limiter) SetLimits(limits map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quotas == nil {
		l.quotas = make(map[string]*quota, len(limits))
	}
	for organisation, q := range l.quotas {
		if _, ok := limits[organisation]; !ok {
			q.limit = math.MaxInt
			q.admit()
			delete(l.quotas, organisation)
		}
	}
	for organisation, limit := range limits {
		if q := l.quotas[organisation]; q != nil {
			q.limit = limit
			q.admit()
		} else {
			l.quotas[organisation] = &quota{limit: limit}
		}
	}
}

// Acquire waits until organisation may do one thing more. Without an error the
// caller releases the Slot.
func (l *Limiter) Acquire(ctx context.Context, organisation string) (Slot, error) {
	if l == nil {
		return Slot{}, nil
	}
	slot, admitted, err := l.enqueue(organisation)
	if admitted == nil {
		return slot, err
	}
	timer := time.NewTimer(cmp.Or(l.Wait, defaultWait))
	defer timer.Stop()
	select {
	case <-admitted:
		return slot, nil
	case <-timer.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if limit, ok := l.dequeue(slot.quota, admitted); ok {
		if err == nil {
			err = l.tooMany(organisation, limit)
		}
		return Slot{}, err
	}
	return slot, nil // it was admitted in this moment
}

// enqueue takes a slot or, with a channel to wait for, a place in the queue.
func (l *Limiter) enqueue(organisation string) (slot Slot, admitted chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.quotas[organisation]
	switch {
	case q == nil:
		return Slot{}, nil, nil
	case q.running < q.limit:
		q.running++
		return Slot{l, q}, nil, nil
	case len(q.queue) >= cmp.Or(l.Queue, q.limit):
		return Slot{}, nil, l.tooMany(organisation, q.limit)
	}
	admitted = make(chan struct{})
	q.queue = append(q.queue, admitted)
	return Slot{l, q}, admitted, nil
}

// dequeue gives up a place in the queue. False: it was admitted already.
func (l *Limiter) dequeue(q *quota, admitted chan struct{}) (limit int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(q.queue, admitted)
	if i < 0 {
		return 0, false
	}
	q.queue = slices.Delete(q.queue, i, i+1)
	return q.limit, true
}

// Release makes room for the next in the queue. It must be called once.
func (s Slot) Release() {
	if s.quota == nil {
		return
	}
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	s.quota.running--
	s.quota.admit()
}

// admit lets the first of the queue run, as many as fit.
func (q *quota) admit() {
	for len(q.queue) > 0 && q.running < q.limit {
		q.running++
		close(q.queue[0])
		q.queue = slices.Delete(q.queue, 0, 1)
	}
}

// tooMany is no 429, which everybody takes for the registry's limit. Its code is
// one after which dockerd tries again: after DENIED and TOOMANYREQUESTS it does
// not (retryOnError in moby's distribution/errors.go).
func (l *Limiter) tooMany(organisation string, limit int) error {
	what, key := cmp.Or(l.What, "requests"), cmp.Or(l.Key, "limits.requests")
	message := fmt.Sprintf("organisation %s: %d of its %s go on at once on this node, and more wait; that is its limit (%s): pull again in a moment, or ask whoever runs the node to raise it",
		organisation, limit, what, key)
	if organisation == "" {
		message = fmt.Sprintf("%d %s of callers without an organisation go on at once on this node, and more wait: pull again in a moment", limit, what)
	}
	return &oci.Error{
		Class: oci.Policy, Status: http.StatusServiceUnavailable, Code: oci.CodeUnknown, Rule: key,
		Message: message, RetryAfter: defaultWait,
	}
}
