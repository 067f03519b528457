package upstream

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"berth/oci"
)

// A breaker opens when faults of the network, in a row, weigh this much. A fault
// weighs by what it costs those who wait for it, and by how surely it is about
// the whole registry. An answer of any other kind takes all of it back, so that a
// registry which fails one request in five keeps its breaker closed.
const (
	breakerLimit  = 20
	weighsTimeout = 7 // eight seconds of somebody's patience
	weighsBroken  = 4 // no connection, or one that broke off
	weighsGateway = 2 // 502, 503, 504: what stands before the registry says so
	weighsFailure = 1 // 500: often about one image only
)

// probeEvery is how often an open breaker lets a call through to find out.
const probeEvery = time.Second

// tryFor is how long a try may take for its header, and how long others wait for it. It
// ends before the next one begins: else the next would wait for the same token, or be
// ended by the failure of the one before, and ask nobody.
const tryFor = probeEvery * 3 / 4

// minBlame is how long a try must have waited, when the time for its call ran
// out, for the registry to be at fault: earlier tries may have used it up.
const minBlame = tryFor

// breaker says whether a host is worth asking. While it is open one call in a second
// is a try, which finds out whether the host is back; all others have their answer at
// once, but for those that come while a try has begun, who wait for what it comes to, and
// those that must let others try first. It goes by the clock that requests go by.
type breaker struct {
	// turned hears that it opened or closed.
	turned func(open bool)

	mu     sync.Mutex
	weight int
	last   fault
	// heard is when the host last answered.
	heard time.Time
	// tried is for whom the last try was, which began at begun. found is closed when it
	// has come to something, or another begins; nil: nobody waits for that. failedAgain:
	// something has failed since it began. othersWait and otherRepoWaits: another
	// organisation, or somebody who asks about another repository, has been turned away.
	tried                      tryOf
	begun                      time.Time
	found                      chan struct{}
	failedAgain                bool
	othersWait, otherRepoWaits bool
}

// tryOf is whose call finds out whether a host is back, and what it is about.
type tryOf struct{ organisation, repo string }

// fault is what a host did last: an error, or a status.
type fault struct {
	err    error
	status int
	at     time.Time
}

// enter says whether a call may go out; if not, why. Where others were turned away, a
// call of the organisation that was the last to try lets them go first, for a moment, and
// so does one about the same repository: what the registry always fails on, one image or
// all that one organisation asks for, must not be what decides about all others.
func (b *breaker) enter(ctx context.Context, c tryOf) (fault, bool) {
	for {
		f, found, until, ok := b.try(c)
		if found == nil {
			return f, ok
		}
		left := time.NewTimer(time.Until(until))
		select {
		case <-found:
		case <-left.C:
		case <-ctx.Done():
			left.Stop()
			return f, false
		}
		left.Stop()
	}
}

// try looks once whether c may go out. Where another try is under way, it says what to
// wait for, and until when.
func (b *breaker) try(c tryOf) (f fault, found <-chan struct{}, until time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.weight < breakerLimit {
		return fault{}, nil, time.Time{}, true
	}
	now, turn := time.Now(), b.begun.Add(probeEvery)
	if until := b.begun.Add(tryFor); b.found != nil && now.Before(until) {
		return b.last, b.found, until, false
	}
	if now.Before(turn) {
		b.othersWait = b.othersWait || c.organisation != b.tried.organisation
		b.otherRepoWaits = b.otherRepoWaits || c.repo != b.tried.repo
		return b.last, nil, time.Time{}, false
	}
	again := c.organisation == b.tried.organisation && b.othersWait || c.repo == b.tried.repo && b.otherRepoWaits
	if after := turn.Add(tryFor); again && now.Before(after) {
		// What was found out is older than a second, and no answer may rest on it.
		if b.found == nil {
			b.found = make(chan struct{})
		}
		return b.last, b.found, after, false
	}
	b.cameTo()
	b.begin(c, now)
	b.found = make(chan struct{})
	return fault{}, nil, time.Time{}, true
}

// begin is a new try. Caller holds mu.
func (b *breaker) begin(c tryOf, now time.Time) {
	b.tried, b.begun, b.failedAgain, b.othersWait, b.otherRepoWaits = c, now, false, false, false
}

// cameTo lets go whoever waits for the last try, or for the next. Caller holds mu.
func (b *breaker) cameTo() {
	if b.found != nil {
		close(b.found)
		b.found = nil
	}
}

// goesOn says whether a call that may go out may send another request; if not,
// why. A call can take several: how to sign in, a token, the image. While the
// breaker is open the first that fails is the last, or each call that finds out
// would ask a dead host more than once.
func (b *breaker) goesOn() (fault, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.weight < breakerLimit || !b.failedAgain
}

// trouble is the last fault while the breaker is open.
func (b *breaker) trouble() (fault, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.weight >= breakerLimit
}

func (b *breaker) open() bool {
	_, open := b.trouble()
	return open
}

// failed notes what came of a request that was sent at sent. If the host has answered
// another since, it says nothing new: what a mute host has swallowed ends in a timeout
// long after it is back. Nor does it say anything about a try that has begun since.
func (b *breaker) failed(weight int, f fault, sent time.Time) {
	b.mu.Lock()
	if sent.Before(b.heard) {
		b.mu.Unlock()
		return
	}
	was := b.weight >= breakerLimit
	b.weight, b.last = min(b.weight+weight, breakerLimit), f
	opened := !was && b.weight >= breakerLimit
	if opened {
		b.begin(tryOf{}, f.at)
	}
	if opened || !sent.Before(b.begun) {
		b.failedAgain = true
		b.cameTo()
	}
	b.mu.Unlock()
	if opened {
		b.turned(true)
	}
}

// answered notes that the host is there.
func (b *breaker) answered() {
	b.mu.Lock()
	was := b.weight >= breakerLimit
	b.weight, b.last, b.heard = 0, fault{}, time.Now()
	b.cameTo()
	b.mu.Unlock()
	if was {
		b.turned(false)
	}
}

// hear notes what one request came to. It took that long.
func (b *breaker) hear(ctx context.Context, resp *http.Response, err error, took time.Duration) {
	f := fault{err: err, at: time.Now()}
	sent := f.at.Add(-took)
	switch {
	case err == nil:
		f.status = resp.StatusCode
		if w := weightOf(f.status); w > 0 {
			b.failed(w, f, sent)
		} else {
			b.answered()
		}
	case ctx.Err() == nil:
		if w := weighs(err); w > 0 {
			b.failed(w, f, sent)
		}
	case took >= minBlame && errors.Is(context.Cause(ctx), errNoHeader): // and not the caller's own end
		b.failed(weighsTimeout, fault{err: errNoHeader, at: f.at}, sent)
	}
}

func weightOf(status int) int {
	switch status {
	case http.StatusInternalServerError:
		return weighsFailure
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return weighsGateway
	}
	if status >= 520 && status <= 530 { // Cloudflare about its origin
		return weighsGateway
	}
	return 0
}

// weighs is for errors. What the address policy refused was never asked.
func weighs(err error) int {
	if _, ok := errors.AsType[*refusal](err); ok {
		return 0
	}
	switch classOf(err) {
	case oci.Timeout:
		return weighsTimeout
	case oci.Unreachable:
		return weighsBroken
	case oci.UpstreamError: // nonsense, like headers without an end
		return weighsFailure
	}
	return 0
}

// remembered is the error of a call that was not made, since an earlier one
// failed with f.
func (w asker) remembered(f fault) error {
	e := &oci.Error{Class: oci.UpstreamError, Message: w.says() + "is in trouble; try again later"}
	if f.err != nil {
		e = oci.AsError(w.fault(context.Background(), f.err))
	}
	told := *e
	told.Err = errRemembered
	told.Detail = "not asked: it has just failed several times, and is tried once in a second"
	return w.about(&told)
}

// errRemembered is the cause of an error that cost no request.
var errRemembered = errors.New("remembered from an earlier request")
