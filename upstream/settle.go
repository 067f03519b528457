package upstream

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"berth/auth/credential"
	"berth/internal/share"
	"berth/oci"
	"berth/upstream/classify"
)

const (
	// keptPlaces bounds for how many credentials it is remembered where they were
	// taken. One that is forgotten is asked about at /v2/.
	keptPlaces = 1024
	// settledFor is how long what was found out about a credential stands, so that
	// twenty 401 at once are not twenty more requests.
	settledFor = 5 * time.Second
	// placeFor is how long one place may take to answer, and settleFor how long a 401 waits
	// for all of it: its own call has openLimit, and a 401 that runs out of that is no
	// answer. The place may be a repository which the owner of the account has hang.
	placeFor, settleFor = 3 * time.Second, 6 * time.Second
)

// place is a request that the registry has answered with a success to a credential as
// it is.
type place struct {
	method, repo, path, query, accept, rng string
}

func (c *call) place() place {
	p := place{c.method, c.repo, c.path, c.query, c.accept, c.rng}
	if c.op == opBlob {
		p.rng = "bytes=0-0" // all of it would be a download
	}
	return p
}

func (p place) call() *call {
	return &call{op: opProbe, method: p.method, repo: p.repo, path: p.path, query: p.query, accept: p.accept, rng: p.rng}
}

// settlement finds out what a no to Basic is about. Nexus answers 401 for a
// repository that an account may not read, and ECR for lists, as well as for an
// account that is no good (hashicorp/terraform#35370); held against the account, one
// repository would stop all others.
type settlement struct {
	// pinged: /v2/ has answered 401 to whoever had no credential, so that a success
	// there says something about one.
	pinged atomic.Bool

	taken  *share.LRU[string, place]   // by fingerprint
	result *share.LRU[string, settled] // likewise

	mu    sync.Mutex
	turns map[string]*turn // by fingerprint, of those that are being found out about
}

// turn is for one at a time with the same credential: what another one's requests wait for
// holds up nobody else's.
type turn struct {
	held    chan struct{} // has room for the one who finds out
	waiting int
}

type settled struct {
	good bool
	at   time.Time
}

func newSettlement() *settlement {
	return &settlement{taken: share.New[string, place](keptPlaces, nil), result: share.New[string, settled](keptPlaces, nil), turns: map[string]*turn{}}
}

// take waits for the turn of a credential. Not ok: ctx has ended before.
func (t *settlement) take(ctx context.Context, fingerprint string) (leave func(), ok bool) {
	t.mu.Lock()
	one := t.turns[fingerprint]
	if one == nil {
		one = &turn{held: make(chan struct{}, 1)}
		t.turns[fingerprint] = one
	}
	one.waiting++
	t.mu.Unlock()
	select {
	case one.held <- struct{}{}:
		ok = true
	case <-ctx.Done():
	}
	return func() {
		if ok {
			<-one.held
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.waiting--; one.waiting == 0 {
			delete(t.turns, fingerprint)
		}
	}, ok
}

// took notes that the registry answered c with a success to cred as it is.
func (t *settlement) took(cred *credential.Credential, c *call) {
	t.taken.Add(cred.Organisation, cred.Version, c.place())
}

// known is what was found out a moment ago.
func (t *settlement) known(fingerprint string, now time.Time) (good, known bool) {
	r, ok := t.result.Get(fingerprint)
	return r.good, ok && now.Sub(r.at) < settledFor
}

func (t *settlement) found(cred *credential.Credential, good bool, now time.Time) {
	t.result.Add(cred.Organisation, cred.Version, settled{good, now})
	if !good {
		t.taken.Remove(cred.Version)
	}
}

// places are the requests that find out about a no to c, the best one first: what was
// answered last to the same credential in another repository, and /v2/ where that asks
// for one. With this node's own account /v2/ is better: everybody's pulls are answered to
// it, so that what was answered last may be the choice of whoever owns both repositories.
func (t *settlement) places(cred *credential.Credential, c *call) (calls []*call) {
	p, ok := t.taken.Get(cred.Version)
	if ok && p.repo != c.repo {
		calls = append(calls, p.call())
	}
	if t.pinged.Load() {
		calls = append(calls, &call{op: opProbe, method: http.MethodGet, accept: "*/*"})
	}
	if cred.Shared() {
		slices.Reverse(calls)
	}
	if ok && len(calls) == 0 && p.path != c.path { // the right to the whole repository may be gone
		calls = append(calls, p.call())
	}
	return calls
}

// stillTaken says whether the registry takes cred, of which it has just said no to c, at
// another place: where it has taken it before, or at /v2/. Then that no is about what c
// asked for. Without such a place it is about the credential.
func (s *source) stillTaken(ctx context.Context, cred *credential.Credential, c *call) bool {
	t := s.settlement
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	leave, ok := t.take(ctx, cred.Version)
	defer leave()
	if !ok {
		return true // nothing was found out
	}
	if good, known := t.known(cred.Version, s.now()); known {
		return good
	}
	places := t.places(cred, c)
	if len(places) == 0 {
		return c.method == http.MethodHead // the GET after it tells
	}
	for _, place := range places {
		if good, plain := s.takenAt(ctx, place, cred); plain {
			t.found(cred, good, s.now())
			return good
		}
	}
	// A registry in trouble, or a page, says nothing about an account: to hold it
	// against that would stop all that the account may pull. The next 401 asks anew.
	return true
}

// takenAt asks at place as cred. plain: the registry itself has answered, so that good
// is known. A page, a limit and trouble are no such answers.
func (s *source) takenAt(ctx context.Context, place *call, cred *credential.Credential) (good, plain bool) {
	ctx, cancel := context.WithTimeout(ctx, placeFor)
	defer cancel()
	req := place.request(s.Registry)
	if place.path == "" {
		req.URL.Path = "/v2/"
	}
	if err := s.authority.Authorize(ctx, req, cred, place.repo); err != nil {
		return false, oci.ClassOf(err) == oci.Unauthorized // it cools down already
	}
	got, err := s.send(ctx, s.meta, req, opProbe, 0)
	if err != nil {
		return false, false
	}
	defer func() { _ = got.Body.Close() }() // what counts has been read
	switch {
	case classify.IsPage(got.Header):
		return false, got.StatusCode == http.StatusUnauthorized && !classify.Unexplained(got.StatusCode, got.Header)
	case got.StatusCode == http.StatusUnauthorized:
		return false, true
	}
	switch got.StatusCode {
	case http.StatusForbidden:
		if place.method == http.MethodHead { // the text tells
			place.method = http.MethodGet
			return s.takenAt(ctx, place, cred)
		}
		text, err := readUpTo(got.Body, classify.MaxErrorBody)
		f := classify.Read(got.Header, versions(got.Header, text)[0])
		return !f.SaysExpired(), err == nil && !f.Page
	case http.StatusOK, http.StatusNoContent, http.StatusPartialContent, http.StatusNotFound:
		return true, true
	}
	return false, false // a redirect too: single sign-on sends everybody to its login
}
