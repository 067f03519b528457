package upstream

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"berth/internal/pause"
	"berth/oci"
)

const (
	// The node asks a registry in trouble after firstProbe, and then after twice as
	// long each time up to lastProbe; each time by up to a quarter later, so that many
	// nodes behind one address do not ask together.
	firstProbe, lastProbe = time.Second, 8 * time.Second
	// probeFor is how long after the last call that it failed a registry is asked for
	// nobody. After that the next call finds out.
	probeFor = time.Hour
)

// probes find out that a registry is back, so that no client gets an old copy first.
type probes struct {
	ctx context.Context
	end context.CancelFunc
	all sync.WaitGroup

	mu      sync.Mutex
	running bool
	last    probe
}

// probe is what is asked: what failed last, as whom that was asked.
type probe struct {
	source *source
	call   *call
	at     time.Time
	// unsigned: without the credential, which is refused, or cannot be had. Whether it was
	// replaced meanwhile, clients find out: each probe would be another failed login.
	unsigned bool
}

func newProbes() *probes {
	p := &probes{}
	p.ctx, p.end = context.WithCancel(context.Background())
	return p
}

func (p *probes) close() {
	p.mu.Lock()
	p.end()
	p.mu.Unlock()
	p.all.Wait()
}

// after has the registry asked what c asks, until it is out of trouble.
func (p *probes) after(s *source, c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = probe{source: s, call: c.probe(), at: time.Now()}
	if p.running || p.ctx.Err() != nil {
		return
	}
	p.running = true
	p.all.Go(p.run)
}

// probe is the same question at the smallest price: nobody reads the answer.
func (c *call) probe() *call {
	p := c.place().call()
	if c.op == opManifest {
		p.method = http.MethodHead // GETs are counted
	}
	return p
}

func (p *probes) run() {
	for wait := firstProbe; pause.For(p.ctx, wait+rand.N(wait/4)) == nil; wait = min(2*wait, lastProbe) {
		next, wanted := p.next()
		if !wanted {
			return
		}
		if !next.unsigned && next.asks(p.ctx) {
			continue
		}
		p.mu.Lock()
		if p.last == next {
			p.last.unsigned = true
		}
		p.mu.Unlock()
		next.asksUnsigned(p.ctx)
	}
}

// asks has the breakers hear what comes of the question. false: nothing that says whether
// they are in trouble.
func (p probe) asks(ctx context.Context) bool {
	a, err := p.source.call(ctx, p.call, openLimit)
	if err == nil {
		_ = a.Body.Close()
	}
	return !inVain(p.call, err)
}

// asksUnsigned asks without a credential or a token. A challenge is an answer, too: the
// registry is there.
func (p probe) asksUnsigned(ctx context.Context) {
	s, c := p.source, p.call
	who := s.asker(nil, c.repo)
	ctx = oci.OnBehalf(ctx, oci.Behalf{Payer: who.payer, Principal: who.principal, Repo: c.repo, What: c.path})
	if s.mayAsk(ctx, c, nil, who) != nil {
		return
	}
	a, err := s.within(ctx, c, openLimit, who, func(ctx context.Context) (*answer, error) {
		return s.follow(ctx, s.via(c.op), c.request(s.Registry), c.op, who)
	})
	if err == nil {
		_ = a.Body.Close()
	}
}

// next is what to ask, as long as the registry is in trouble and somebody wanted
// something of it.
func (p *probes) next() (probe, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = p.last.source.Troubled() && time.Since(p.last.at) < probeFor
	return p.last, p.running
}
