package proxy

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"berth/oci"
)

const (
	// maxFailuresEach is how many different failures of one organisation are
	// kept. Whoever pulls ever new names fills its own list, not the others'.
	maxFailuresEach = 100
	// maxFailures is how many are kept of all together: a few MiB.
	maxFailures = 4096
)

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

// Failures keeps the last failures of each organisation, for whoever asks why
// a pull failed: some clients show an error's status and hide its text. Its size
// is bounded, whatever clients send. A nil *Failures keeps nothing. Safe for
// concurrent use.
type Failures struct {
	now func() time.Time

	mu    sync.Mutex // guards all below
	lists map[string]*failureList
	kept  int
}

// failureList has the failures of one organisation, the latest last.
type failureList = simplelru.LRU[failureKey, *Failure]

// NewFailures makes an empty one. If now is nil, time.Now is the clock.
func NewFailures(now func() time.Time) *Failures {
	if now == nil {
		now = time.Now
	}
	return &Failures{now: now, lists: map[string]*failureList{}}
}

// add keeps of under key; counted: it is no repetition. Strings are copied: they
// may be pieces of long requests.
func (f *Failures) add(key failureKey, of Failure, counted bool) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.list(of.Organisation)
	kept, ok := list.Get(key)
	if !ok {
		kept = f.enter(list, key, of)
	}
	if counted || !ok {
		kept.Count++
	}
	kept.Last = f.now()
	kept.Message, kept.RequestID, kept.Client = of.Message, of.RequestID, of.Client
}

func (f *Failures) list(organisation string) *failureList {
	list, ok := f.lists[organisation]
	if !ok {
		list, _ = simplelru.NewLRU[failureKey, *Failure](maxFailuresEach, nil) // fails only for a size that is not positive
		f.lists[strings.Clone(organisation)] = list
	}
	return list
}

// enter makes room for a new failure and keeps it.
func (f *Failures) enter(list *failureList, key failureKey, of Failure) *Failure {
	if f.kept == maxFailures && list.Len() < maxFailuresEach {
		f.longest().RemoveOldest()
		f.kept--
	}
	key = key.clone()
	of.Organisation, of.Registry = strings.Clone(of.Organisation), strings.Clone(of.Registry)
	of.Repository, of.Reference = key.repository, key.reference
	of.First, of.Count = f.now(), 0
	if evicted := list.Add(key, &of); !evicted {
		f.kept++
	}
	return &of
}

// longest is the list that can best do without one.
func (f *Failures) longest() (list *failureList) {
	for _, l := range f.lists {
		if list == nil || l.Len() > list.Len() {
			list = l
		}
	}
	return list
}

// All gives key failureKey at or after since, the latest first.
func (f *Failures) All(since time.Time) []Failure {
	return f.those(func(*Failure) bool { return true }, since)
}

// Of gives those of one organisation at or after since, the latest first; empty: those of
// callers without one.
func (f *Failures) Of(organisation string, since time.Time) []Failure {
	return f.those(func(e *Failure) bool { return e.Organisation == organisation }, since)
}

func (f *Failures) those(wanted func(*Failure) bool, since time.Time) (all []Failure) {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, list := range f.lists {
		for _, e := range list.Values() {
			if wanted(e) && !e.Last.Before(since) {
				all = append(all, *e)
			}
		}
	}
	slices.SortFunc(all, func(a, b Failure) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Organisation, b.Organisation),
			strings.Compare(a.Repository, b.Repository), strings.Compare(a.Reference, b.Reference))
	})
	return all
}

// Keep drops what belongs to organisations that there are no more.
func (f *Failures) Keep(there func(organisation string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, list := range f.lists {
		if name != "" && !there(name) {
			f.kept -= list.Len()
			delete(f.lists, name)
		}
	}
}
