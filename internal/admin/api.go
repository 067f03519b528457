package admin

import "slices"

// State is what became of a configuration file, or of an organisation.
type State string

// The states.
const (
	// Applied: what the file says is in force.
	Applied State = "applied"
	// Kept: the file is bad, and what was in force before it went bad stays.
	Kept State = "kept"
	// Failed: the file is bad and there is nothing to go on with. The
	// organisation is out: its callers are told to try later.
	Failed State = "error"
	// Removed: the file is gone, and so is the organisation.
	Removed State = "removed"
)

// File is one configuration file, as it was last read.
type File struct {
	// Organisation is whose drop-in it is; empty for the main file.
	Organisation string `json:"organisation,omitempty"`
	Path         string `json:"path,omitempty"`
	// SHA256 is that of the content that State is about, in hex. Empty when the
	// file could not be read.
	SHA256 string `json:"sha256,omitempty"`
	State  State  `json:"state"`
	// Errors say what is wrong with it, one line each, with file, line and column.
	Errors []string `json:"errors,omitempty"`
}

// Reload is what came of reading the configuration again. All of it is in force
// when the answer arrives.
type Reload struct {
	// Main is the main file; nil when the node runs without one.
	Main *File `json:"main"`
	// Organisations has every drop-in, by name, and those that went with this
	// reload. (The folder is watched too: they may have gone a moment before.)
	Organisations []File `json:"organisations"`
	// NeedsRestart lists keys whose new value waits for the next start.
	NeedsRestart []string `json:"needs_restart"`
	// Warnings are allowed but hardly meant. Those of a reload end with the
	// accounts, UnusableSecrets of them, whose secrets cannot be used.
	Warnings        []string `json:"warnings"`
	UnusableSecrets int      `json:"unusable_secrets,omitempty"`
}

// OK says that every file, secrets among them, is in force as it stands.
func (r *Reload) OK() bool {
	bad := func(f File) bool { return f.State == Kept || f.State == Failed }
	return r.UnusableSecrets == 0 && (r.Main == nil || !bad(*r.Main)) && !slices.ContainsFunc(r.Organisations, bad)
}

// PurgeRequest says what to forget.
type PurgeRequest struct {
	Organisation string `json:"organisation"`
}

// Purge is what was forgotten.
type Purge struct {
	Organisation string `json:"organisation"`
}

// RemoveRequest says what to delete: one of the two.
type RemoveRequest struct {
	// Image is the name of one, with or without tag or digest; a repository; what is
	// below a name, as in ghcr.io/acme/*; or the digest of anything.
	Image string `json:"image,omitempty"`
	// Organisation is whose: images that nobody else may pull, and those of its own
	// registries.
	Organisation string `json:"organisation,omitempty"`
}

// CanaryRequest asks about a tag that nobody has and that a client was made to pull.
type CanaryRequest struct {
	// Client is its kind, as berth setup calls it.
	Client   string `json:"client"`
	Registry string `json:"registry"`
	Tag      string `json:"tag"`
}

// Canary is whether that pull came to this node. Where it did not, the client counts as
// one that goes around the node for that registry, until the next one does.
type Canary struct {
	Seen bool `json:"seen"`
}

// Removal is what was deleted.
type Removal struct {
	// Manifests and Blobs that were deleted.
	Manifests int `json:"manifests"`
	Blobs     int `json:"blobs"`
	// SharedBlobs stay, since other images have them too.
	SharedBlobs int `json:"shared_blobs"`
	// FreedBytes is what the disk has got back.
	FreedBytes int64 `json:"freed_bytes"`
}
