package ocitest

import (
	"sync"
	"testing"
)

// Overlap gives a t.Run for subtests that wait for most of their time, such as for a
// registry's pauses: most of them run side by side, whatever -parallel says, and begin in
// the order of the calls. wait waits for all; defer it, since none may outlive the test
// that they are of.
func Overlap(t *testing.T, most int) (run func(name string, test func(*testing.T)), wait func()) {
	t.Helper()
	places := make(chan struct{}, most)
	var all sync.WaitGroup
	run = func(name string, test func(*testing.T)) {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			t.Run(name, test)
		})
	}
	return run, all.Wait
}
