package admin

import (
	"sync"
	"time"
)

// Point is what the node had done until then.
type Point struct {
	At    time.Time
	Pulls Pulls
}

// History is what the node did over time, of as many moments as it was made
// for. It is in memory only. Safe for concurrent use.
type History struct {
	mu     sync.Mutex
	points []Point // a ring once it is full
	next   int
}

// NewHistory keeps the last n points.
func NewHistory(n int) *History { return &History{points: make([]Point, 0, max(n, 1))} }

// Add keeps a point, instead of the oldest one when there is no room.
func (h *History) Add(at time.Time, p Pulls) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.points) < cap(h.points) {
		h.points = append(h.points, Point{at, p})
		return
	}
	h.points[h.next] = Point{at, p}
	h.next = (h.next + 1) % len(h.points)
}

// Points are those that are kept, the oldest first.
func (h *History) Points() []Point {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(append(make([]Point, 0, len(h.points)), h.points[h.next:]...), h.points[:h.next]...)
}

// Slot is a piece of time, and what was done in it.
type Slot struct {
	From, To time.Time
	// Known: there are points that tell.
	Known bool
	// Requests, Hits and SavedBytes of this time.
	Requests, Hits, SavedBytes uint64
}

// Slots divides the time between from and to.
func (h *History) Slots(from, to time.Time, n int) []Slot {
	slots := make([]Slot, n)
	width := to.Sub(from) / time.Duration(n)
	for i := range slots {
		slots[i].From = from.Add(time.Duration(i) * width)
		slots[i].To = slots[i].From.Add(width)
	}
	points := h.Points()
	for i := 1; i < len(points); i++ {
		before, p := points[i-1].Pulls, points[i]
		at := int(p.At.Sub(from) / max(width, 1))
		if p.At.Before(from) || at >= n {
			continue
		}
		s := &slots[at]
		s.Known = true
		s.Requests += since(before.Requests, p.Pulls.Requests)
		s.Hits += since(before.Hits, p.Pulls.Hits)
		s.SavedBytes += since(before.SavedBytes, p.Pulls.SavedBytes)
	}
	return slots
}

// since is how much a counter has grown. It shrinks when an organisation goes
// and takes its series along.
func since(before, now uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}
