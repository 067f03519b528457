package ocitest

import (
	"sync"
	"time"
)

// Clock is a time that only a test moves. It has no monotonic part, like times that
// come from a file.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// NewClock is a clock at noon of a day in spring.
func NewClock() *Clock { return &Clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// Advance puts the clock forward, or back, and gives the time that it then shows.
func (c *Clock) Advance(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	return c.t
}
