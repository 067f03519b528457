package proxy

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/internal/share"
	"berth/oci"
)

const (
	// maxFailures is how many different failures are kept: a few MiB. Beyond, those of
	// whoever has the most are forgotten, and are counted again if they go on.
	maxFailures = 4096
	// maxShown is how many of them one organisation is shown.
	maxShown = 100
	// repeatWindow is how long a failure of the same kind is a repetition, which is not
	// counted: clients try a few times, by HEAD and GET, with and without a platform, so
	// that one docker pull fails several times.
	repeatWindow = 30 * time.Second
)

// failureKey is what a failure and its repetitions have in common.
type failureKey struct{ organisation, registry, repository, reference, reason string }

// clone is a copy of f whose strings are no pieces of long requests.
func (f failureKey) clone() failureKey {
	return failureKey{
		strings.Clone(f.organisation), strings.Clone(f.registry), strings.Clone(f.repository),
		strings.Clone(f.reference), strings.Clone(f.reason),
	}
}

// Failure is one way in which pulls of one image fail.
type Failure struct {
	// Organisation is who pulled; empty: nobody, or somebody who did not prove it.
	Organisation string
	// Registry is empty where the request did not come so far.
	Registry, Repository string
	// Reference is the tag, or the digest where none was asked for.
	Reference string
	Class     oci.Class
	// Message, RequestID and Client are those of the last time.
	Message, RequestID, Client string
	// Count is how many pulls failed so, as berth_pull_failures_total has it: what
	// comes again within 30 seconds is one pull.
	Count       uint64
	First, Last time.Time
}

// Failures tells the failures of pulls from their repetitions, and keeps the last ones for
// whoever asks why a pull failed: some clients show an error's status and hide its text.
// Its size is bounded, whatever clients send. Safe for concurrent use.
type Failures struct {
	now func() time.Time

	mu   sync.Mutex // guards what kept leads to
	kept *share.LRU[failureKey, *keptFailure]
}

type keptFailure struct {
	Failure

	counted time.Time // when it was last counted
}

// NewFailures makes an empty one. If now is nil, time.Now is the clock.
func NewFailures(now func() time.Time) *Failures {
	if now == nil {
		now = time.Now
	}
	return &Failures{now: now, kept: share.New[failureKey, *keptFailure](maxFailures, nil)}
}

// add keeps of under key, and says whether it counts: whether it is no repetition. What
// fails without end counts every repeatWindow. Strings are copied: they may be pieces of
// long requests.
func (f *Failures) add(key failureKey, of Failure) (counts bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	kept, ok := f.kept.Get(key)
	if !ok {
		key = key.clone()
		kept = &keptFailure{Failure: of}
		kept.Organisation, kept.Registry = strings.Clone(of.Organisation), strings.Clone(of.Registry)
		kept.Repository, kept.Reference, kept.First = key.repository, key.reference, now
		f.kept.Add(key.organisation, key, kept)
	}
	if counts = now.Sub(kept.counted) >= repeatWindow; counts {
		kept.Count++
		kept.counted = now
	}
	kept.Last = now
	kept.Message, kept.RequestID, kept.Client = of.Message, of.RequestID, of.Client
	return counts
}

// All gives those at or after since, the latest first.
func (f *Failures) All(since time.Time) []Failure {
	return f.those(func(*keptFailure) bool { return true }, since)
}

// Of gives those of one organisation at or after since, the latest first; empty: those of
// callers without one.
func (f *Failures) Of(organisation string, since time.Time) []Failure {
	return f.those(func(e *keptFailure) bool { return e.Organisation == organisation }, since)
}

func (f *Failures) those(wanted func(*keptFailure) bool, since time.Time) (all []Failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.kept.All() {
		if wanted(e) && !e.Last.Before(since) {
			all = append(all, e.Failure)
		}
	}
	slices.SortFunc(all, func(a, b Failure) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Organisation, b.Organisation),
			strings.Compare(a.Repository, b.Repository), strings.Compare(a.Reference, b.Reference))
	})
	shown := map[string]int{}
	return slices.DeleteFunc(all, func(e Failure) bool {
		shown[e.Organisation]++
		return shown[e.Organisation] > maxShown
	})
}

// Keep drops what belongs to organisations that there are no more.
func (f *Failures) Keep(there func(organisation string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept.RemoveIf(func(_ failureKey, e *keptFailure) bool { return e.Organisation != "" && !there(e.Organisation) })
}
