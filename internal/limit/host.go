package limit

import (
	"cmp"
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"berth/internal/pause"

	"golang.org/x/time/rate"
)

// hostWait is how long what goes to a registry waits for its turn: longer than a
// request for an answer, since downloads last, but so that the client still gets to
// know what it waited for.
const hostWait = 15 * time.Second

// blobWait is the same for a blob. Whoever pulls waits for bytes anyway, and what is
// ahead of him may be large and come slowly.
const blobWait = 5 * time.Minute

// proofWait is the same for a question about a right. Where there is a copy that may be
// stale, the cache waits four seconds for the registry, and takes what comes later for
// the registry's silence. What was not even sent must not look like that.
const proofWait = 3 * time.Second

// proofs is how many times as many questions about rights may be under way as other
// calls: without an answer to those, nobody gets what is kept here. While a registry
// hangs, they are as many as there are services on the node.
const proofs = 4

// Rate is how many requests a second one organisation may send to one registry, and
// how many at once after a while without any.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Hosts are the registries that a node reaches, by canonical host and port: whatever
// name, alias, mirror or redirect leads there, it is one. What an organisation calls a
// registry of its own is one for that organisation alone: it may be the place that
// everybody's registry redirects to.
type Hosts struct {
	// Connections is how many calls, and how many blobs besides, are under way at one
	// host at once, questions about rights apart. If 0, 16.
	Connections int
	// Rate is that of whoever has none of its own. Zero: any.
	Rate Rate

	bandwidth bandwidth

	mu    sync.Mutex
	hosts map[hostKey]*Host
	rates map[string]Rate
}

// hostKey is a place, and who has brought it; empty: the platform.
type hostKey struct{ owner, place string }

// SetRates replaces the rates, by organisation.
func (a *Hosts) SetRates(rates map[string]Rate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rates = rates
}

func (a *Hosts) rate(organisation string) Rate {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, ok := a.rates[organisation]; ok {
		return r
	}
	return a.Rate
}

// Use is the host called key as owner has brought it (empty: the platform), until Leave.
// perMinute is how many requests a minute may come from this node; 0: any number.
func (a *Hosts) Use(owner, key string, perMinute int64) *Host {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := hostKey{owner, key}
	h := a.hosts[at]
	if h == nil {
		all := int64(cmp.Or(a.Connections, 16))
		h = &Host{
			all: a, owner: owner, key: key, buckets: map[string]bucket{}, paced: map[string]int{},
			requests: &Pool{Total: all, Wait: hostWait, Queue: math.MaxInt, What: "requests at once to " + key, Key: "upstream.connections"},
			proofs:   &Pool{Total: proofs * all, Wait: proofWait, Queue: math.MaxInt, What: "questions at once to " + key, Key: "upstream.connections"},
			blobs:    &Pool{Total: all, Wait: hostWait, Queue: math.MaxInt, What: "blobs at once from " + key, Key: "upstream.connections"},
		}
		if a.hosts == nil {
			a.hosts = map[hostKey]*Host{}
		}
		a.hosts[at] = h
	}
	if perMinute > 0 && h.minute.Load() == nil {
		h.minute.Store(&Pool{Total: max(perMinute/3, 1), Wait: hostWait, Queue: math.MaxInt, What: "requests in half a minute to " + key, Key: "what the registry takes from one address"})
	}
	h.users++
	return h
}

// known is the host called key, of the platform or else of owner; nil: no registry of
// theirs is there.
func (a *Hosts) known(owner, key string) *Host {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h := a.hosts[hostKey{"", key}]; h != nil {
		return h
	}
	return a.hosts[hostKey{owner, key}]
}

// Host is one of Hosts.
type Host struct {
	all   *Hosts
	owner string
	key   string
	users int // guarded by all.mu

	requests, proofs, blobs *Pool
	// minute is a leaky bucket: a third of what may be sent in a minute may be sent at
	// once, and runs out over half a minute, so that nobody who comes after a burst
	// waits for a minute's end. nil: it is not counted. It may come later than the Host, with
	// another registry there.
	minute atomic.Pointer[Pool]

	mu      sync.Mutex
	buckets map[string]bucket // by organisation
	paced   map[string]int    // calls that wait for a bucket, by organisation
	empty   time.Time         // when the bucket has run out
}

// InUse is how many calls are under way, those that bring blobs apart.
func (h *Host) InUse() (requests, blobs int64) {
	return h.requests.inUse() + h.proofs.inUse(), h.blobs.inUse()
}

// Leave ends a Use.
func (h *Host) Leave() {
	h.all.mu.Lock()
	defer h.all.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(h.all.hosts, hostKey{h.owner, h.key})
	}
}

// wait takes one request of what w's organisation may send, and waits for it.
func (h *Host) wait(ctx context.Context, w Want) error {
	slot, err := h.minute.Load().Take(ctx, w)
	if err != nil {
		return err
	}
	h.runOut(slot)
	b := h.bucket(w.Organisation)
	if b.all == nil {
		return nil
	}
	r := b.all.Reserve()
	if r.Delay() > 0 && w.Before != nil {
		r.Cancel()
		if err := w.Before(); err != nil {
			return err
		}
		r = b.all.Reserve()
	}
	delay, cancel := r.Delay(), r.Cancel
	if delay == 0 || w.Past != nil && w.Past() {
		return nil
	}
	if w.First {
		first := b.first.Reserve()
		delay, cancel = min(delay, first.Delay()), func() { first.Cancel(); r.Cancel() }
	}
	if delay > cmp.Or(w.Wait, hostWait) {
		cancel()
		return h.tooFast(w.Organisation, delay)
	}
	h.paces(w.Organisation, 1)
	defer h.paces(w.Organisation, -1)
	err = pause.For(ctx, delay)
	if err != nil {
		cancel()
	}
	return err
}

// paces counts the calls that wait for their organisation's rate.
func (h *Host) paces(organisation string, by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.paced[organisation] += by; h.paced[organisation] == 0 {
		delete(h.paced, organisation)
	}
}

// runOut releases one of minute after those that came before.
func (h *Host) runOut(slot Slot) {
	if slot.pool == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	every := time.Minute / time.Duration(2*slot.pool.Total)
	if now := time.Now(); h.empty.Before(now) {
		h.empty = now
	}
	h.empty = h.empty.Add(every)
	time.AfterFunc(time.Until(h.empty), slot.Release)
}

// charge counts one request that is not waited for.
func (h *Host) charge(organisation string) {
	if minute := h.minute.Load(); minute != nil {
		h.runOut(minute.Charge(organisation, 1))
	}
	h.bucket(organisation).charge()
}

// take counts one request if there is one left, of the organisation's and of the node's.
func (h *Host) take(organisation string) error {
	if b := h.bucket(organisation); b.all != nil && !b.all.Allow() {
		return h.tooFast(organisation, time.Second)
	}
	minute := h.minute.Load()
	if minute == nil {
		return nil
	}
	slot, err := minute.now(Want{Organisation: organisation, N: 1})
	if err != nil {
		return err
	}
	h.runOut(slot)
	return nil
}

// bucket is what one organisation may send. The zero one has no limit.
type bucket struct {
	all *rate.Limiter
	// first is for questions about rights while all is empty: they take of all too, but
	// wait for each other only. What has been sent without a wait, and the blobs that
	// wait, would otherwise keep them longer than they can wait, and with them what is
	// kept here. Until those blobs are through, more is sent than the limit says, at
	// most as much again; what comes after them pays for it.
	first *rate.Limiter
}

// charge counts one request that is not waited for.
func (b bucket) charge() {
	if b.all != nil {
		b.all.Reserve()
	}
}

// bucket is organisation's.
func (h *Host) bucket(organisation string) bucket {
	want := h.all.rate(organisation)
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.buckets[organisation]
	switch {
	case want == (Rate{}):
		return bucket{}
	case b.all == nil:
		b = bucket{rate.NewLimiter(rate.Limit(want.PerSecond), want.Burst), rate.NewLimiter(rate.Limit(want.PerSecond), 1)}
		h.buckets[organisation] = b
	case b.all.Limit() != rate.Limit(want.PerSecond) || b.all.Burst() != want.Burst:
		b.all.SetLimit(rate.Limit(want.PerSecond))
		b.all.SetBurst(want.Burst)
		b.first.SetLimit(rate.Limit(want.PerSecond))
	}
	return b
}

func (h *Host) tooFast(organisation string, after time.Duration) error {
	want := h.all.rate(organisation)
	return refusal("limits.rate", after.Truncate(time.Second)+time.Second, "%s: it sends more than %g requests a second to %s, which is its limit (limits.rate): pull again in a moment, or ask whoever runs the node to raise it",
		whose(organisation), want.PerSecond, h.key)
}
