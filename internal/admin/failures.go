package admin

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Nobody stands for callers without organisation, as in metrics.
const Nobody = "-"

// FailuresRequest says which failures are wanted. As a GET, its fields may be
// parameters of the URL.
type FailuresRequest struct {
	// Organisation is whose; Nobody: of those that have none, or did not prove
	// one. Empty: all.
	Organisation string `json:"organisation,omitempty"`
	// Since leaves older ones out, as ParseSince reads it. Empty: none.
	Since string `json:"since,omitempty"`
}

func (r *FailuresRequest) query(parameters url.Values) error {
	for name, values := range parameters {
		switch name {
		case "organisation", "org":
			r.Organisation = values[0]
		case "since":
			r.Since = values[0]
		default:
			return fmt.Errorf("unknown parameter %.40q: there are organisation and since", name)
		}
	}
	return nil
}

// ParseSince reads a time (RFC 3339) or how long ago it was (90m). Empty: the
// zero time.
func ParseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, errors.New("since is how long ago, such as 90m, or a time, such as 2026-11-23T18:00:00Z")
}

// Failures are the last failures of pulls, the latest first. Of each
// organisation a bounded number is kept, in memory only.
type Failures struct {
	Failures []Failure `json:"failures"`
}

// Failure is one way in which pulls of one image fail.
type Failure struct {
	// Organisation is who pulled, Nobody included.
	Organisation string `json:"organisation"`
	// Registry is empty where the request did not come so far.
	Registry   string `json:"registry,omitempty"`
	Repository string `json:"repository,omitempty"`
	// Reference is the tag or digest.
	Reference string `json:"reference,omitempty"`
	// Class is the reason, as in berth_pull_failures_total, or wrong_platform;
	// Owner is who can mend it: tenant, network or operator.
	Class string `json:"class"`
	Owner string `json:"owner"`
	// Message, RequestID and Client are those of the last time.
	Message   string `json:"message"`
	RequestID string `json:"request_id"`
	Client    string `json:"client"`
	// Count is how many pulls failed so: tries within 30 seconds are one.
	Count uint64    `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Image is what was pulled, as users write it.
func (f *Failure) Image() string {
	image := f.Repository
	if f.Registry != "" && image != "" {
		image = f.Registry + "/" + image
	}
	switch {
	case f.Reference == "" || image == "":
		return image
	case strings.Contains(f.Reference, ":"): // a tag has none
		return image + "@" + f.Reference
	}
	return image + ":" + f.Reference
}
