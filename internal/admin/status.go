package admin

import (
	"slices"
	"time"
)

// Status is the node at a glance.
type Status struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// Now is when this was so, by the node's clock, and UptimeSeconds since Started.
	Now           time.Time     `json:"now"`
	UptimeSeconds int64         `json:"uptime_seconds"`
	Pulls         Pulls         `json:"pulls"`
	Listeners     []Listener    `json:"listeners"`
	Configuration Configuration `json:"configuration"`
	Cache         Cache         `json:"cache"`
	// Fleet is what this node shares with others; nil: nothing.
	Fleet *Fleet `json:"fleet,omitempty"`
	// Accounts are the organisations' at registries, and the shared view's.
	Accounts []Account `json:"accounts"`
	// Troubled are registries that fail so often that they are hardly asked.
	Troubled []string `json:"troubled"`
	// Fills are the downloads under way.
	Fills []Fill `json:"fills"`
	// Waiting are requests to registries that wait for a limit of this node's.
	Waiting []Waiting `json:"waiting"`
	// Held are tags that have moved and serve what they meant before.
	Held []Held `json:"held"`
	// Clients say when each kind of client last pulled, so that one that goes
	// around the node is noticed.
	Clients []ClientPull `json:"clients"`
	// Bypasses are clients that berth doctor saw going around the node.
	Bypasses []Bypass `json:"bypasses"`
	// Failures are the last ones, the latest first. See also FailuresRequest.
	Failures []Failure `json:"failures"`
}

// Pulls are what the node did for its clients since its start.
type Pulls struct {
	// Served are images that were sent to clients.
	Served uint64 `json:"served"`
	// ChargedDockerHub are requests that Docker Hub counts as pulls.
	ChargedDockerHub uint64 `json:"charged_docker_hub"`
	// Failed are pulls that failed, for whatever reason.
	Failed uint64 `json:"failed"`
	// SavedBytes were sent without fetching them for it, FetchedBytes came from
	// registries.
	SavedBytes   uint64 `json:"saved_bytes"`
	FetchedBytes uint64 `json:"fetched_bytes"`
	// Requests for manifests and blobs that were answered, and Hits those of them
	// for which nothing was fetched.
	Requests uint64 `json:"requests"`
	Hits     uint64 `json:"hits"`
}

// Listener is one port where pulls are answered, as it is in force.
type Listener struct {
	// Address is the configured one, Sockets are those that are open.
	Address string   `json:"address"`
	Sockets []string `json:"sockets"`
	// Callers is token or open.
	Callers      string `json:"callers"`
	Organisation string `json:"organisation,omitempty"`
	Registry     string `json:"registry"`
	// OrganisationInName is required or optional.
	OrganisationInName string `json:"organisation_in_name"`
	// Names are the host names, besides localhost, that clients may use.
	Names []string `json:"names,omitempty"`
	// TLS: it is served with a certificate, which is good until CertificateEnds.
	TLS             bool       `json:"tls"`
	CertificateEnds *time.Time `json:"certificate_ends,omitempty"`
}

// Configuration is what is in force, and what came of the last reload. Its
// Organisations are also those of the main file, with that file's path.
type Configuration struct {
	Reload
	// Applied is when the main file that is in force was read.
	Applied time.Time `json:"applied"`
}

// Cache is the folder on disk.
type Cache struct {
	Directory string `json:"directory"`
	// Bytes are those of the blobs, and of what is being fetched.
	Bytes int64 `json:"bytes"`
	// LimitBytes is cache.max_size on this disk; 0: no limit but the disk's.
	LimitBytes int64 `json:"limit_bytes"`
	// DiskBytes is the size of the whole file system, FreeBytes what it has left.
	DiskBytes int64 `json:"disk_bytes"`
	FreeBytes int64 `json:"free_bytes"`
	// FreeFiles is how many more files (inodes) it can hold; nil: any number.
	FreeFiles *int64 `json:"free_files,omitempty"`
	// Unwritable: the disk cannot be written, and pulls go past it.
	Unwritable bool `json:"unwritable"`
	// PastDisk is why pulls go past the disk, or some did in the last hour; nil:
	// none did.
	PastDisk *PastDisk `json:"past_disk,omitempty"`
}

// PastDisk is why pulls go past the disk.
type PastDisk struct {
	// Reason is unusable (the folder), failed (the disk), bytes or inodes (the disk
	// is full), too_large (a blob is larger than all that may be kept), busy (the
	// downloads under way fill it) or share (one organisation's downloads).
	Reason string `json:"reason"`
	// Error is what happened, where there is more to say.
	Error string `json:"error,omitempty"`
	// Bytes did not fit, and that was Last so.
	Bytes int64      `json:"bytes,omitempty"`
	Last  *time.Time `json:"last,omitempty"`
}

// AccountState is what a registry last thought of an account.
type AccountState string

// The states of an account.
const (
	// AccountOK: the registry took it.
	AccountOK AccountState = "ok"
	// AccountRefused: the registry refused it.
	AccountRefused AccountState = "refused"
	// AccountResting: the registry is not asked with it until CoolDownUntil.
	AccountResting AccountState = "cooling_down"
	// AccountUnused: it was not shown to the registry since the start.
	AccountUnused AccountState = "unused"
	// AccountRenewed: it has a new secret, which was not shown to the registry yet.
	AccountRenewed AccountState = "new_secret"
	// AccountLost: its secret cannot be used, so there is nothing to show.
	AccountLost AccountState = "no_secret"
)

// Text is s for people.
func (s AccountState) Text() string {
	switch s {
	case AccountResting:
		return "cooling down"
	case AccountRenewed:
		return "new secret, not tried yet"
	case AccountLost:
		return "no secret"
	}
	return string(s)
}

// Account is an organisation's account at a registry.
type Account struct {
	// Organisation is Nobody for the shared view.
	Organisation string `json:"organisation"`
	Registry     string `json:"registry"`
	// Name is Nobody where there is no account, and the node's address counts.
	Name  string       `json:"account"`
	State AccountState `json:"state"`
	// CoolDownUntil is when the registry is asked with it again.
	CoolDownUntil *time.Time `json:"cool_down_until,omitempty"`
	// RateLimit and RateLeft are pulls, as the registry last told; nil: it does
	// not tell, which is not the same as none.
	RateLimit *int64 `json:"rate_limit,omitempty"`
	RateLeft  *int64 `json:"rate_left,omitempty"`
	// RateRefills is when there will be more, as far as one can guess.
	RateRefills *time.Time `json:"rate_refills,omitempty"`
	// SecretError is why its secret cannot be used; OldServes: the one before it is.
	SecretError string `json:"secret_error,omitempty"`
	OldServes   bool   `json:"old_secret_serves,omitempty"`
}

// Fill is a download under way.
type Fill struct {
	Registry   string `json:"registry"`
	Repository string `json:"repository,omitempty"`
	Digest     string `json:"digest,omitempty"`
	// Bytes are there, of Size; -1: the registry has not said.
	Bytes int64 `json:"bytes"`
	Size  int64 `json:"size"`
	// Readers wait for it or read along.
	Readers int `json:"readers"`
}

// Held is a tag that has moved at its registry, which policy.cooldown holds back here.
type Held struct {
	// Organisation is Nobody for callers without one.
	Organisation string `json:"organisation"`
	// Image is what is held, with its tag.
	Image string `json:"image"`
	// Serves is what it means here until Until, and New what it means then.
	Serves string    `json:"serves"`
	New    string    `json:"new"`
	Until  time.Time `json:"until"`
}

// ClientPull is when a kind of client last pulled.
type ClientPull struct {
	Client string    `json:"client"`
	Last   time.Time `json:"last"`
}

// Bypass is a client that was made to pull from a registry, by berth doctor, and whose
// pull did not come to this node.
type Bypass struct {
	Client   string    `json:"client"`
	Registry string    `json:"registry"`
	Last     time.Time `json:"last"`
}

// public is s without what is for the socket only: repositories, messages,
// paths, hashes.
func (s Status) public() Status {
	s.PID = 0
	s.Cache.Directory = ""
	if p := s.Cache.PastDisk; p != nil {
		s.Cache.PastDisk = &PastDisk{Reason: p.Reason, Error: hidden(p.Error), Bytes: p.Bytes, Last: p.Last}
	}
	if n := len(s.Configuration.Warnings); n > 0 {
		s.Configuration.Warnings = []string{plural(n, "warning") + " about the configuration: berth status has them"}
	}
	if m := s.Configuration.Main; m != nil {
		s.Configuration.Main = &File{State: m.State}
	}
	s.Configuration.Organisations = mapped(s.Configuration.Organisations, func(f File) File {
		return File{Organisation: f.Organisation, State: f.State}
	})
	s.Accounts = mapped(s.Accounts, func(a Account) Account {
		a.SecretError = hidden(a.SecretError)
		return a
	})
	s.Fills = mapped(s.Fills, func(f Fill) Fill {
		f.Repository, f.Digest = "", ""
		return f
	})
	s.Waiting = []Waiting{}
	s.Held = mapped(s.Held, func(h Held) Held { return Held{Organisation: h.Organisation, Until: h.Until} })
	s.Failures = withoutImages(s.Failures)
	return s
}

// unnamed stands for an organisation where none is named.
const unnamed = "(berth status names it)"

// Nameless is s without what tells one organisation from another, for those who may be
// anybody on the node. What concerns the node, and callers without an organisation, is
// in it.
func (s Status) Nameless() Status {
	s = s.public()
	s.Listeners = mapped(s.Listeners, func(l Listener) Listener {
		if l.Organisation != "" {
			l.Organisation = unnamed
		}
		return l
	})
	s.Configuration.Organisations = mapped(s.Configuration.Organisations, func(f File) File {
		return File{Organisation: unnamed, State: f.State}
	})
	s.Accounts = slices.DeleteFunc(slices.Clone(s.Accounts), func(a Account) bool { return a.Organisation != Nobody })
	s.Held = slices.DeleteFunc(slices.Clone(s.Held), func(h Held) bool { return h.Organisation != Nobody })
	s.Failures = slices.DeleteFunc(slices.Clone(s.Failures), func(f Failure) bool { return f.Organisation != Nobody })
	s.Fills = []Fill{} // a size tells which image it is
	return s
}

// hidden leaves that there is something.
func hidden(text string) string {
	if text == "" {
		return ""
	}
	return "berth status says it"
}

// withoutImages are the failures by organisation, registry and reason.
func withoutImages(failures []Failure) []Failure {
	all := []Failure{}
	for _, f := range failures {
		f.Repository, f.Reference, f.Message, f.RequestID = "", "", "", ""
		same := func(o Failure) bool {
			return o.Organisation == f.Organisation && o.Registry == f.Registry && o.Class == f.Class
		}
		if i := slices.IndexFunc(all, same); i >= 0 {
			all[i].Count += f.Count
			continue
		}
		all = append(all, f)
	}
	return all
}

func mapped[T any](all []T, f func(T) T) []T {
	out := make([]T, len(all))
	for i, t := range all {
		out[i] = f(t)
	}
	return out
}
