package fleet

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"time"
)

// link is a line that all who use it at a time share in equal parts, as TCP does. A nil
// link has no limit.
type link struct {
	rate float64 // bytes a second

	mu    sync.Mutex
	at    time.Time
	given float64 // what each who was there all the time has been given, until at
	flows flows
	timer *time.Timer
	bytes int64 // of those that have ended
}

// flow is one transfer on a link.
type flow struct {
	n     int64
	until float64 // of link.given
	index int     // in the heap; -1: it has ended
	done  chan struct{}
}

func newLink(rate float64) *link {
	if rate == 0 {
		return nil
	}
	return &link{rate: rate, at: time.Now()}
}

// begin puts n bytes on the way.
func (l *link) begin(n int64) *flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	f := &flow{n: n, until: l.given + float64(n), done: make(chan struct{})}
	heap.Push(&l.flows, f)
	l.set()
	return f
}

// end takes a transfer off the link, and says how much of it came through.
func (l *link) end(f *flow) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.index < 0 {
		return f.n
	}
	l.advance()
	heap.Remove(&l.flows, f.index)
	l.set()
	came := f.n - int64(math.Ceil(f.until-l.given))
	l.bytes += came
	return came
}

// came is how much of a transfer has come through.
func (l *link) came(f *flow) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.index < 0 {
		return f.n
	}
	l.advance()
	return f.n - int64(math.Ceil(f.until-l.given))
}

// advance gives what was to be given since it was last called. Caller holds mu.
func (l *link) advance() {
	now := time.Now()
	if n := len(l.flows); n > 0 {
		l.given += l.rate / float64(n) * now.Sub(l.at).Seconds()
	}
	l.at = now
}

// set has the next one end in time. Caller holds mu.
func (l *link) set() {
	if len(l.flows) == 0 {
		return
	}
	left := max(l.flows[0].until-l.given, 0) * float64(len(l.flows)) / l.rate
	d := time.Duration(left*float64(time.Second)) + 1
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.fire)
		return
	}
	l.timer.Reset(d)
}

func (l *link) fire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	for len(l.flows) > 0 && l.flows[0].until <= l.given+0.5 {
		f := l.flows[0]
		heap.Pop(&l.flows)
		l.bytes += f.n
		close(f.done)
	}
	l.set()
}

type flows []*flow

func (f flows) Len() int           { return len(f) }
func (f flows) Less(i, j int) bool { return f[i].until < f[j].until }
func (f flows) Swap(i, j int) {
	f[i], f[j] = f[j], f[i]
	f[i].index, f[j].index = i, j
}

func (f *flows) Push(x any) {
	one, _ := x.(*flow)
	one.index = len(*f)
	*f = append(*f, one)
}

func (f *flows) Pop() any {
	last := len(*f) - 1
	one := (*f)[last]
	one.index = -1
	*f = (*f)[:last]
	return one
}

// path is the way of a transfer: some links, and what one connection can do.
type path struct {
	links         []*link
	perConnection float64 // bytes a second; 0: no limit
}

// transfer is n bytes on their way.
type transfer struct {
	path

	n, told int64
	began   time.Time
	flows   []*flow
	done    chan error // gets one when it has ended
}

// begin sends n bytes, until ctx ends.
func (p path) begin(ctx context.Context, n int64) *transfer {
	t := &transfer{path: path{perConnection: p.perConnection}, n: n, began: time.Now(), done: make(chan error, 1)}
	for _, l := range p.links {
		if l != nil {
			t.links, t.flows = append(t.links, l), append(t.flows, l.begin(n))
		}
	}
	go func() { t.done <- t.run(ctx) }()
	return t
}

func (t *transfer) run(ctx context.Context) error {
	defer func() {
		for i, f := range t.flows {
			t.links[i].end(f)
		}
	}()
	for _, f := range t.flows {
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if t.perConnection == 0 {
		return nil
	}
	return rest(ctx, time.Until(t.began.Add(time.Duration(float64(t.n)/t.perConnection*float64(time.Second)))))
}

// wait waits for the end, or as long as that, and says how much more has come.
func (t *transfer) wait(at time.Duration) (int64, error) {
	timer := time.NewTimer(at)
	defer timer.Stop()
	came := t.n
	select {
	case err := <-t.done:
		if err != nil {
			return 0, err
		}
	case <-timer.C:
		for i, f := range t.flows {
			came = min(came, t.links[i].came(f))
		}
		if t.perConnection > 0 {
			came = min(came, int64(t.perConnection*time.Since(t.began).Seconds()))
		}
	}
	more := max(came-t.told, 0)
	t.told += more
	return more, nil
}

// send takes as long as n bytes do.
func (p path) send(ctx context.Context, n int64) error { return <-p.begin(ctx, n).done }

// rest is a sleep that ends with ctx.
func rest(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
