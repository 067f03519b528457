package upstream

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
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
	p.last = probe{s, c.probe(), time.Now()}
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
	for wait := firstProbe; p.sleep(wait); wait = min(2*wait, lastProbe) {
		next, wanted := p.next()
		if !wanted {
			return
		}
		if a, err := next.source.call(p.ctx, next.call, openLimit); err == nil {
			_ = a.Body.Close() // the breaker has heard what counts
		}
	}
}

func (p *probes) sleep(wait time.Duration) bool {
	t := time.NewTimer(wait + rand.N(wait/4))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
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
