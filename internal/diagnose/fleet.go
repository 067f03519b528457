package diagnose

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"berth/fleet/bucket"
)

// The steps of a fleet.
const (
	StepKey         = "key"         // the fleet's, and organisations'
	StepBucket      = "bucket"      // writing and reading
	StepClock       = "clock"       // signatures are good for a quarter of an hour
	StepList        = "list"        // is refused
	StepCoordinator = "coordinator" // does it answer
	StepRights      = "rights"      // of this node's user there
	StepNodes       = "nodes"       // have the others the same key
)

// mayBeAhead is how far a clock may be off before a bucket refuses signatures soon.
const mayBeAhead = 5 * time.Minute

// FleetSubject is a fleet as one node has it.
type FleetSubject struct {
	// Node and Zone are its names there.
	Node, Zone string
	// Keys are the fingerprints of the fleet's keys, the first writes; KeyErr is why
	// there are none.
	Keys   []string
	KeyErr error
	// Organisations are the fingerprints of their keys, and what is wrong with those that
	// cannot be used.
	Organisations map[string][]string
	Unusable      map[string]error

	Bucket interface {
		Check(context.Context) (bucket.Health, error)
	}
	Coordinator interface {
		Greet(ctx context.Context, fingerprint string) error
		Greetings(ctx context.Context) (map[string]string, error)
		CheckRights(ctx context.Context) error
	}
}

// Fleet walks through what a node needs to share. One engine that fails does not keep
// the other from being looked at.
func Fleet(ctx context.Context, s FleetSubject) *Report {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := &Report{Fleet: true, OK: true, Steps: []Step{}}
	r.keys(s)
	r.bucket(ctx, s)
	r.coordinator(ctx, s)
	return r
}

// check adds a step, and says whether it went well.
func (r *Report) check(step, found string, err error, begun time.Time) bool {
	took := time.Duration(0)
	if !begun.IsZero() {
		took = time.Since(begun)
	}
	if err != nil {
		r.OK = false
		r.add(step, Failed, err.Error(), took)
		return false
	}
	r.add(step, OK, found, took)
	return true
}

func (r *Report) keys(s FleetSubject) {
	r.check(StepKey, fmt.Sprintf("fingerprint %s: compare it on another node", strings.Join(s.Keys, ", then ")), s.KeyErr, time.Time{})
	for _, name := range slices.Sorted(maps.Keys(s.Organisations)) {
		r.check(StepKey, fmt.Sprintf("organisation %s: fingerprint %s", name, strings.Join(s.Organisations[name], ", then ")), nil, time.Time{})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Unusable)) {
		r.check(StepKey, "", fmt.Errorf("organisation %s shares nothing: %w", name, s.Unusable[name]), time.Time{})
	}
}

func (r *Report) bucket(ctx context.Context, s FleetSubject) {
	begun := time.Now()
	h, err := s.Bucket.Check(ctx)
	if !r.check(StepBucket, "written and read", err, begun) {
		r.Hints = append(r.Hints, "berth setup fleet prints the rights that the access key needs; a 403 is about those, the key, or this node's clock")
		return
	}
	var off error
	if h.Ahead.Abs() > mayBeAhead {
		off = fmt.Errorf("this node's clock is off by %v: soon no signature is taken; set it by NTP", h.Ahead)
	}
	r.check(StepClock, fmt.Sprintf("off by %v at most", h.Ahead.Abs()+time.Second), off, time.Time{})
	if h.Lists {
		r.check(StepList, "allowed, though no node needs it", nil, time.Time{})
		r.Hints = append(r.Hints, "take the right to list away: who lists sees how much is shared, and when")
	} else {
		r.check(StepList, "refused, as it should be", nil, time.Time{})
	}
}

func (r *Report) coordinator(ctx context.Context, s FleetSubject) {
	begun := time.Now()
	shown := "none"
	if len(s.Keys) > 0 {
		shown = s.Keys[0]
	}
	if !r.check(StepCoordinator, fmt.Sprintf("this is %s in zone %s", s.Node, s.Zone), s.Coordinator.Greet(ctx, shown), begun) {
		return
	}
	r.check(StepRights, "no more than a node needs", s.Coordinator.CheckRights(ctx), time.Time{})
	others, err := s.Coordinator.Greetings(ctx)
	delete(others, s.Node)
	same := true
	var all []string
	for _, node := range slices.Sorted(maps.Keys(others)) {
		is := "has the same key"
		if !slices.Contains(s.Keys, others[node]) {
			is, same = "has another key, "+others[node], false
		}
		all = append(all, node+" "+is)
	}
	switch {
	case err == nil && len(all) == 0:
		all = append(all, "no other node has shown itself in the last day")
	case err == nil && !same:
		err = fmt.Errorf("%s: put the same key_file on every node, the new key in the first line and the old one in the second until all have both", strings.Join(all, "; "))
	}
	r.check(StepNodes, strings.Join(all, "; "), err, time.Time{})
}
