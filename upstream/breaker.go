package upstream

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"berth/internal/pause"
	"berth/internal/share"
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

// breaker says whether a host is worth asking. It opens for everybody by faults without a
// connection, which nobody was spared, or by those that two have met. One whose requests
// alone fail (a project of his own whose upstream is dead, an image that the registry
// fails on) has it open for himself, and there what is remembered is about the very object
// that was asked for: else he could have the registry's no to another one be taken for
// silence. While it is open one call in a second is a try, which finds out whether the
// host is back; all others have their answer at once, but for those that come while a try
// has begun, who wait for what it comes to, and those that must let others try first. It
// goes by the clock that requests go by.
type breaker struct {
	// turned hears that it opened for somebody, or closed.
	turned func(open bool)

	mu sync.Mutex
	// unreached weighs the faults without a connection, and faults the others, by payer,
	// since the last answer, which came at heard.
	unreached int
	faults    map[string]int
	heard     time.Time
	all       gate
	own       *share.LRU[oci.Behalf, *gate]
}

// keptGates bounds for how many objects a breaker that is open for a few remembers what
// became of the last question. One that is forgotten is asked about.
const keptGates = 1024

func newBreaker(turned func(bool)) *breaker {
	return &breaker{turned: turned, faults: map[string]int{}, own: share.New[oci.Behalf, *gate](keptGates, nil)}
}

// gate lets tries through. It is guarded by the lock of its breaker.
type gate struct {
	last fault
	// tried is for whom the last try was, which began at begun. found is closed when it
	// has come to something, or another begins; nil: nobody waits for that. failedAgain:
	// something has failed since it began. othersWait and otherRepoWaits: another
	// organisation, or somebody who asks about another repository, has been turned away.
	tried                      oci.Behalf
	begun                      time.Time
	found                      chan struct{}
	failedAgain                bool
	othersWait, otherRepoWaits bool
}

// fault is what a host did last: an error, or a status.
type fault struct {
	err    error
	status int
	at     time.Time
}

// forAll says whether it is open for everybody: nobody's faults are more than half of
// what that takes. Caller holds mu.
func (b *breaker) forAll() bool {
	weight := b.unreached
	for _, w := range b.faults {
		weight += min(w, breakerLimit/2)
	}
	return weight >= breakerLimit
}

// forOne says whether it is open for payer, if it is for nobody else. Caller holds mu.
func (b *breaker) forOne(payer string) bool { return b.unreached+b.faults[payer] >= breakerLimit }

// gate is what c has to pass; nil: nothing. To the shared principal nothing is secret, so
// that one object stands for all. Caller holds mu.
func (b *breaker) gate(c oci.Behalf) *gate {
	switch {
	case b.forAll():
		return &b.all
	case !b.forOne(c.Payer):
		return nil
	case c.Principal.Shared():
		c = oci.Behalf{Payer: c.Payer}
	}
	g, ok := b.own.Get(c)
	if !ok {
		g = &gate{}
		b.own.Add(c.Payer, c, g)
	}
	return g
}

// enter says whether a call may go out; if not, why. Where others were turned away, a
// call of the organisation that was the last to try lets them go first, for a moment, and
// so does one about the same repository: what the registry always fails on, one image or
// all that one organisation asks for, must not be what decides about all others.
func (b *breaker) enter(ctx context.Context, c oci.Behalf) (fault, bool) {
	for {
		f, found, until, ok := b.try(c)
		if found == nil {
			return f, ok
		}
		if _, err := pause.Until(ctx, found, time.Until(until)); err != nil {
			return f, false
		}
	}
}

// try looks once whether c may go out. Where another try is under way, it says what to
// wait for, and until when.
func (b *breaker) try(c oci.Behalf) (f fault, found <-chan struct{}, until time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.gate(c)
	if g == nil {
		return fault{}, nil, time.Time{}, true
	}
	now, turn := time.Now(), g.begun.Add(probeEvery)
	if until := g.begun.Add(tryFor); g.found != nil && now.Before(until) {
		return g.last, g.found, until, false
	}
	// A try that its client has left may have come to nothing.
	told := g == &b.all || now.Sub(g.last.at) < 2*probeEvery
	if now.Before(turn) && told {
		g.othersWait = g.othersWait || c.Payer != g.tried.Payer
		g.otherRepoWaits = g.otherRepoWaits || c.Repo != g.tried.Repo
		return g.last, nil, time.Time{}, false
	}
	again := c.Payer == g.tried.Payer && g.othersWait || c.Repo == g.tried.Repo && g.otherRepoWaits
	if after := turn.Add(tryFor); again && now.Before(after) {
		// What was found out is older than a second, and no answer may rest on it.
		if g.found == nil {
			g.found = make(chan struct{})
		}
		return g.last, g.found, after, false
	}
	g.cameTo()
	g.begin(c, now)
	g.found = make(chan struct{})
	return fault{}, nil, time.Time{}, true
}

// begin is a new try.
func (g *gate) begin(c oci.Behalf, now time.Time) {
	g.tried, g.begun, g.failedAgain, g.othersWait, g.otherRepoWaits = c, now, false, false, false
}

// unasked takes a try of c back that has asked the host nothing: the next may go at once.
func (b *breaker) unasked(c oci.Behalf) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.gate(c); g != nil && g.tried == c && !g.failedAgain {
		g.begun = time.Time{}
		g.cameTo()
	}
}

// cameTo lets go whoever waits for the last try, or for the next.
func (g *gate) cameTo() {
	if g.found != nil {
		close(g.found)
		g.found = nil
	}
}

// goesOn says whether a call that may go out may send another request; if not,
// why. A call can take several: how to sign in, a token, the image. While the
// breaker is open the first that fails is the last, or each call that finds out
// would ask a dead host more than once.
func (b *breaker) goesOn(c oci.Behalf) (fault, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.gate(c); g != nil {
		return g.last, !g.failedAgain
	}
	return fault{}, true
}

// trouble is the last fault while the breaker is open for everybody.
func (b *breaker) trouble() (fault, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.last, b.forAll()
}

// opens says whether it is open for c.
func (b *breaker) opens(c oci.Behalf) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.forAll() || b.forOne(c.Payer)
}

// open says whether it is open for anybody.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isOpen()
}

// isOpen is open. Caller holds mu.
func (b *breaker) isOpen() bool {
	if b.forAll() {
		return true
	}
	for payer := range b.faults {
		if b.forOne(payer) {
			return true
		}
	}
	return false
}

// failed notes what came of a request that was sent at sent. If the host has answered
// another since, it says nothing new: what a mute host has swallowed ends in a timeout
// long after it is back. Nor does it say anything about a try that has begun since.
func (b *breaker) failed(c oci.Behalf, weight int, f fault, sent time.Time) {
	b.mu.Lock()
	if sent.Before(b.heard) {
		b.mu.Unlock()
		return
	}
	was := b.isOpen()
	if f.err != nil && isConnecting(f.err) {
		b.unreached = min(b.unreached+weight, breakerLimit)
	} else {
		b.faults[c.Payer] = min(b.faults[c.Payer]+weight, breakerLimit)
	}
	if g := b.gate(c); g != nil {
		first := g.begun.IsZero()
		if first {
			g.begin(oci.Behalf{}, f.at)
		}
		if g.last = f; first || !sent.Before(g.begun) {
			g.failedAgain = true
			g.cameTo()
		}
	}
	opened := !was && b.isOpen()
	b.mu.Unlock()
	if opened {
		b.turned(true)
	}
}

// answered notes that the host is there.
func (b *breaker) answered() {
	b.mu.Lock()
	was := b.isOpen()
	b.heard, b.unreached = time.Now(), 0
	clear(b.faults)
	if was {
		b.all.cameTo()
		b.all = gate{}
		for k, g := range b.own.All() {
			g.cameTo()
			b.own.Remove(k)
		}
	}
	b.mu.Unlock()
	if was {
		b.turned(false)
	}
}

// hear notes what one request came to. It took that long.
func (b *breaker) hear(ctx context.Context, resp *http.Response, err error, took time.Duration) {
	c, f := oci.BehalfOf(ctx), fault{err: err, at: time.Now()}
	sent := f.at.Add(-took)
	switch {
	case err == nil:
		f.status = resp.StatusCode
		if w := weightOf(f.status); w > 0 {
			b.failed(c, w, f, sent)
		} else {
			b.answered()
		}
	case ctx.Err() == nil:
		if w := weighs(err); w > 0 {
			b.failed(c, w, f, sent)
		}
	case took >= minBlame && errors.Is(context.Cause(ctx), errNoHeader): // and not the caller's own end
		b.failed(c, weighsTimeout, fault{err: errNoHeader, at: f.at}, sent)
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
