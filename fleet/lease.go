package fleet

import (
	"context"
	"time"

	"berth/fleet/coordinator"
)

// observed is a lease as it was seen to live.
type observed struct {
	coordinator.Holder

	part  time.Time // when the last part came
	parts int
	vain  bool // that nothing came of it was noted
	// turns is how many leases there were since the last part.
	turns int
}

func (l *observed) held() bool { return l.Node != "" }

// dead says whether a lease is passed by: nothing has come of it for patience, or no part
// for partFor. A lease lives only while bytes move, so more need not be known.
func (l *observed) dead(now time.Time, patience time.Duration) bool {
	quiet := now.Sub(l.part)
	return quiet >= partFor || l.parts == 0 && quiet >= patience
}

// pass passes the lease of h by: whoever takes the next one fetches for the others too,
// who would all go to the registry otherwise. There is no next one for ever.
func (o *Object) pass(h coordinator.Holder) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := &o.lease
	if l.Holder != h { // another worker has
		return true
	}
	if l.parts == 0 && !l.vain {
		l.vain = true
		o.t.inVain(l.Node)
	}
	if o.turn == lastTurn {
		return false
	}
	o.turn++
	o.lease = observed{part: time.Now(), turns: l.turns}
	o.looked = time.Time{}
	return true
}

// leased is the object with the lease that counts now.
func (o *Object) leased() coordinator.Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.names[0].Object
	of.Turn = o.turn
	return of
}

// see takes in who has the lease. Caller holds mu.
func (o *Object) see(found coordinator.Found) {
	now, holder, l := time.Now(), found.Holder, &o.lease
	if holder.Writing == o.writing {
		holder = coordinator.Holder{} // it is ours
	}
	if holder != l.Holder {
		fresh := observed{Holder: holder, part: now, turns: l.turns + 1}
		if l.held() && l.parts == 0 && !l.vain && now.Sub(l.part) >= coordinator.LeaseTime { // else it was given back
			o.t.inVain(l.Node)
		}
		if fresh.turns > maxTurns { // whoever changes leases without end is not waited for without end
			fresh.part = l.part
		}
		*l = fresh
	}
	for _, w := range found.Writers {
		if w.Writing != l.Writing || w.Node != l.Node || o.lost[w.Writing] {
			continue
		}
		if parts := count(w.Parts); parts > l.parts {
			l.part, l.parts, l.turns = now, parts, 0
		}
	}
}

// takeLease tries to, and says whether to go to the registry.
func (o *Object) takeLease(ctx context.Context) bool {
	asked := time.Now()
	limited, cancel := context.WithTimeout(ctx, o.t.o.Patience)
	defer cancel()
	holder, ok, err := o.t.o.Coordinator.Take(limited, o.leased(), o.writing)
	switch {
	case err != nil:
		o.trouble(ctx, err)
		o.count(Fallback)
		return true
	case !ok:
		o.mu.Lock()
		o.see(coordinator.Found{Holder: holder})
		o.mu.Unlock()
		return false
	case o.succeeded(limited):
		return false
	}
	o.mu.Lock()
	o.held = asked.Add(coordinator.LeaseTime)
	o.keep()
	o.mu.Unlock()
	o.count(Leased)
	return true
}

// succeeded says whether another node fetches the object already, with the lease after the
// one that was just taken, and follows that: where a holder is quiet, and then dies, some
// pass its lease by, while others see it run out.
func (o *Object) succeeded(ctx context.Context) bool {
	this := o.leased()
	if this.Turn == lastTurn {
		return false
	}
	next := this
	next.Turn++
	found, err := o.t.o.Coordinator.Look(ctx, next)
	if err != nil || found.Holder.Node == "" || o.t.ignoresLeases(found.Holder.Node) {
		return false
	}
	_ = o.t.o.Coordinator.Release(ctx, this, o.writing) // it runs out by itself
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turn, o.looked = next.Turn, time.Time{}
	o.lease = observed{part: time.Now()}
	o.see(found)
	o.add(o.names[0], found)
	return true
}

// fall ends the waiting for the fleet. Who goes to the registry although somebody else
// is said to be there takes one of the zone's few slots, which is waited for once.
func (o *Object) fall(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, o.t.o.Patience/2)
	defer cancel()
	var giveBack func(context.Context) error
	for {
		asked := time.Now()
		release, ok, err := o.t.o.Coordinator.Slot(ctx, registrySlots, slotFor)
		if giveBack = release; ok || err != nil || ctx.Err() != nil {
			break
		}
		nextPoll(ctx, time.Since(asked))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fallen = true
	if giveBack != nil && o.giveBack == nil && !o.over { // else it ends by itself
		o.giveBack = giveBack
	}
}
