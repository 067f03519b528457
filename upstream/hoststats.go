package upstream

import (
	"sync"
	"time"

	"berth/internal/share"
)

const (
	// leastQuiet is how long a host may say nothing on a connection that was open
	// before, until that is a sign that the connection is dead.
	leastQuiet = time.Second
	// usualTimes is how many times the usual time a host may take instead, if that
	// is longer: one that looks everything up in a slow store is slow, not dead.
	usualTimes = 3
	// keptHosts bounds what is remembered: redirect targets are many.
	keptHosts = 512
)

// hostStat is what is known of how a host answers requests of one kind.
type hostStat struct {
	// header is how long it usually takes until a header is there; 0: unknown.
	header time.Duration
	// cut is when a body of it was last given up since its connection seemed dead.
	cut time.Time
}

type hostKey struct {
	host string
	op   operation
}

// hostStats is a bounded table of what is known of the hosts that were asked last.
type hostStats struct {
	mu    sync.Mutex // held from reading to writing
	hosts *share.LRU[hostKey, hostStat]
}

func newHostStats() *hostStats {
	return &hostStats{hosts: share.New[hostKey, hostStat](keptHosts, nil)}
}

// answered notes that a header was there after a time, for organisation by. The average forgets
// quickly: what was slow for once costs little.
func (m *hostStats) answered(by string, k hostKey, took time.Duration) {
	m.change(by, k, func(n *hostStat) {
		if n.header == 0 {
			n.header = max(took, 1) // 0 is for hosts that were never heard of
			return
		}
		n.header += (took - n.header) / 4
	})
}

// slow notes that a host took so long over a connection that was new, and was not
// given the time over one that was not: it is given it from now on.
func (m *hostStats) slow(by string, k hostKey, took time.Duration) {
	m.change(by, k, func(n *hostStat) { n.header = max(n.header, took) })
}

// gaveUp notes that a body was given up.
func (m *hostStats) gaveUp(by string, k hostKey) {
	m.change(by, k, func(n *hostStat) { n.cut = time.Now() })
}

func (m *hostStats) change(by string, k hostKey, f func(*hostStat)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, _ := m.hosts.Get(k)
	f(&n)
	m.hosts.Add(by, k, n)
}

func (m *hostStats) of(k hostKey) hostStat {
	n, _ := m.hosts.Get(k)
	return n
}
