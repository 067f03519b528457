package upstream

import (
	"context"
	"sync"
	"time"

	"berth/internal/share"
	"berth/oci"
)

// A budget holds retries to a share of the traffic of one origin: when
// everything fails, everything being sent again is what keeps it down. Each organisation
// has its own: whoever pulls what always fails would else leave none for the others.
const (
	budgetShare  = 0.1 // of a retry, earned by each first try
	budgetMax    = 32  // retries that can be saved up, and what there is at the start
	budgetPerSec = 0.5 // the floor: a quiet origin earns this much without traffic
)

// keptBudgets bounds for how many organisations it is known.
const keptBudgets = 4096

// budgets are those at one origin, by payer.
type budgets struct {
	mu  sync.Mutex // so that nobody has two
	all *share.LRU[string, *budget]
}

func newBudgets() *budgets { return &budgets{all: share.New[string, *budget](keptBudgets, nil)} }

// of is that of whoever pays for ctx.
func (b *budgets) of(ctx context.Context) *budget {
	payer := oci.BehalfOf(ctx).Payer
	b.mu.Lock()
	defer b.mu.Unlock()
	own, ok := b.all.Get(payer)
	if !ok {
		own = newBudget(time.Now())
		b.all.Add(payer, payer, own)
	}
	return own
}

func (b *budgets) earn(ctx context.Context)       { b.of(ctx).earn() }
func (b *budgets) spend(ctx context.Context) bool { return b.of(ctx).spend(time.Now()) }

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
