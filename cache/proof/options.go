package proof

import (
	"log/slog"
	"time"
)

// defaultAccessTTL is how long a proof of access stays fresh.
const defaultAccessTTL = 5 * time.Minute

// Options of Open. The zero value works. Where a configuration says "0s" for one
// of the times, a negative one is what it means: 0 here means the default.
type Options struct {
	// AccessTTL is how long access stays Fresh. If 0, 5 minutes; negative:
	// never, so that each use asks upstream.
	AccessTTL time.Duration
	// MemberTTL is how long membership stays Fresh. If 0, 24 hours; negative: never.
	MemberTTL time.Duration
	// TagTTL is how long a tag stays Fresh. If 0, 60 seconds; negative: never.
	TagTTL time.Duration
	// Grace is how long a proof stands in while upstream cannot be asked. If
	// 0, 24 hours; negative: not at all.
	Grace time.Duration
	// Doubt is for how long after it was made a proof counts once an answer has
	// come that was not understood, until the next proof. If 0, an hour; negative:
	// not at all.
	Doubt time.Duration
	// Entries bounds how many proofs of each kind are kept in memory. If not
	// positive, 30000: with names as long as they may be that is 60 MiB. Those
	// that do not fit, the oldest of the organisation that has the most, are read from
	// the file again.
	Entries int
	// FileBytes bounds the file. If not positive, 256 MiB, which is a million
	// proofs. Above it the oldest of the organisation that has the most are dropped,
	// which costs it HEADs after a restart.
	FileBytes int64
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log gets trouble with the file. If nil, nothing is logged.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	setDefault(&o.AccessTTL, defaultAccessTTL)
	setDefault(&o.MemberTTL, 24*time.Hour)
	setDefault(&o.TagTTL, time.Minute)
	setDefault(&o.Grace, 24*time.Hour)
	setDefault(&o.Doubt, time.Hour)
	if o.Entries <= 0 {
		o.Entries = 30_000
	}
	if o.FileBytes <= 0 {
		o.FileBytes = 256 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func setDefault(field *time.Duration, value time.Duration) {
	if *field == 0 {
		*field = value
	}
}

// Times are what the same fields of Options say.
type Times struct{ AccessTTL, TagTTL, Grace, Doubt time.Duration }

// For is f as organisation uses it, with other times for what its proofs are worth. A
// zero time is that of f. The proofs are the same; only f is closed.
func (f *Proofs) For(organisation string, t Times) *Proofs {
	o := f.o
	for _, set := range []struct {
		field *time.Duration
		value time.Duration
	}{{&o.AccessTTL, t.AccessTTL}, {&o.TagTTL, t.TagTTL}, {&o.Grace, t.Grace}, {&o.Doubt, t.Doubt}} {
		if set.value != 0 {
			*set.field = set.value
		}
	}
	return &Proofs{o: o, by: organisation, memory: f.memory}
}
