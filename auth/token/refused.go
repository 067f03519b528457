package token

import (
	"context"
	"sync"
	"time"

	"berth/auth/credential"
	"berth/internal/share"
	"berth/upstream/classify"
)

const (
	firstCoolDown = time.Minute
	lastCoolDown  = 15 * time.Minute
	// goodFor is how long after a success atOnce requests with one credential may wait
	// for an answer, and not one only. It may have been changed since.
	goodFor = time.Minute
	atOnce  = 4
	// trialWait is how long a request waits for those. They may be about something that
	// the registry takes its time over, and must not keep a question about a right from
	// being put.
	trialWait = 2 * time.Second
	// maxStandings bounds how many credentials are remembered. One that is
	// forgotten, of the organisation that has the most, costs a request.
	maxStandings = 4096
)

// standings remembers how credentials stand with one registry, by fingerprint:
// a refused one is left alone for a while, since registries lock accounts that
// keep trying. While it is not known whether one is good, a single request
// finds out and the others wait for it, so that twenty pulls at once with an
// expired token are not twenty refusals; and of one that was good a moment ago a few
// are under way at once.
type standings struct {
	now func() time.Time

	mu   sync.Mutex // guards all below, and what the standings hold
	byFP *share.LRU[string, *standing]
}

type standing struct {
	refused *refusal
	strikes int           // refusals in a row
	good    time.Time     // the last success
	asking  int           // requests that have no answer yet
	next    chan struct{} // closed when one of them is over; nil: nobody waits for that
}

// refusal is one that is still remembered.
type refusal struct {
	cause     *classify.RefusedCause
	at, until time.Time
}

func newStandings(now func() time.Time) *standings {
	return &standings{now: now, byFP: share.New[string, *standing](maxStandings, nil)}
}

// refusal is what is remembered against the credential, nil: nothing.
func (s *standings) refusal(fingerprint string) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.byFP.Get(fingerprint); ok {
		return s.cooling(st)
	}
	return nil
}

func (s *standings) cooling(st *standing) *refusal {
	if r := st.refused; r != nil && s.now().Before(r.until) {
		return r
	}
	return nil
}

// enter waits until the credential may be tried. Whoever gets neither refusal
// nor error calls leave when the registry has answered, and says whether it took the
// credential.
func (s *standings) enter(ctx context.Context, cred *credential.Credential) (leave func(good bool), _ *refusal, _ error) {
	patience := time.NewTimer(trialWait)
	defer patience.Stop()
	for {
		st, wait := s.step(cred)
		if st.known != nil {
			return nil, st.known, nil
		}
		if wait == nil {
			return st.leave, nil, nil
		}
		select {
		case <-wait:
		case <-patience.C:
			return func(bool) {}, nil, nil
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

type entrance struct {
	known *refusal
	leave func(good bool)
}

// step looks once: refused, free to go, or somebody to wait for.
func (s *standings) step(cred *credential.Credential) (entrance, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.get(cred)
	if r := s.cooling(st); r != nil {
		return entrance{known: r}, nil
	}
	most := 1
	if s.now().Sub(st.good) < goodFor {
		most = atOnce
	}
	if st.asking < most {
		st.asking++
		return entrance{leave: func(good bool) { s.leave(st, good) }}, nil
	}
	if st.next == nil {
		st.next = make(chan struct{})
	}
	return entrance{}, st.next
}

func (s *standings) leave(st *standing, good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.asking--; good {
		st.good = s.now()
	}
	if st.next != nil {
		close(st.next)
		st.next = nil
	}
}

func (s *standings) get(cred *credential.Credential) *standing {
	st, ok := s.byFP.Get(cred.Version)
	if !ok {
		st = &standing{}
		s.byFP.Add(cred.Organisation, cred.Version, st)
	}
	return st
}

// refuse remembers a refusal and says whether it is news. Refusals that come
// while one is remembered were under way with it and change nothing.
func (s *standings) refuse(cred *credential.Credential, cause *classify.RefusedCause) (*refusal, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.get(cred)
	if r := s.cooling(st); r != nil {
		return r, false
	}
	wait := min(firstCoolDown<<min(st.strikes, 10), lastCoolDown)
	now := s.now()
	st.strikes++
	st.good = time.Time{}
	st.refused = &refusal{cause: cause, at: now, until: now.Add(wait)}
	return st.refused, true
}

// accept clears whatever was remembered and says whether that was a refusal.
func (s *standings) accept(cred *credential.Credential) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.get(cred)
	was := st.refused != nil
	st.refused, st.strikes, st.good = nil, 0, s.now()
	return was
}

// forget clears all refusals: the registry now wants something else.
func (s *standings) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.byFP.All() {
		st.refused, st.strikes = nil, 0
	}
}
