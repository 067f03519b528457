package upstream

import (
	"sync"
	"time"
)

// A budget holds retries to a share of the traffic of one origin: when
// everything fails, everything being sent again is what keeps it down.
const (
	budgetShare  = 0.1 // of a retry, earned by each first try
	budgetMax    = 32  // retries that can be saved up, and what there is at the start
	budgetPerSec = 0.5 // the floor: a quiet origin earns this much without traffic
)

type budget struct {
	mu     sync.Mutex
	saved  float64
	earned time.Time // when saved was last brought up to date
}

func newBudget(now time.Time) *budget { return &budget{saved: budgetMax, earned: now} }

// earn counts a first try.
func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saved = min(b.saved+budgetShare, budgetMax)
}

// spend takes one retry, if there is one.
func (b *budget) spend(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now.Sub(b.earned); d > 0 {
		b.saved = min(b.saved+d.Seconds()*budgetPerSec, budgetMax)
		b.earned = now
	}
	if b.saved < 1 {
		return false
	}
	b.saved--
	return true
}
