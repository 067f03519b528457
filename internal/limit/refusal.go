package limit

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"berth/oci"
)

// tooMany is no 429, which everybody takes for the registry's limit. Its code is
// one after which dockerd tries again: after DENIED and TOOMANYREQUESTS it does
// not (retryOnError in moby's distribution/errors.go).
func (p *Pool) tooMany(q *party) error {
	what, key := cmp.Or(p.What, "requests"), cmp.Or(p.Key, "limits.requests")
	switch {
	case p.Total == 0 && q.organisation == "":
		return refusal(key, defaultWait, "%d %s of callers without an organisation go on at once on this node, and more wait: pull again in a moment", p.most(q), what)
	case p.Total == 0:
		return refusal(key, defaultWait, "%s: %d of its %s go on at once on this node, and more wait; that is its limit (%s): pull again in a moment, or ask whoever runs the node to raise it",
			whose(q.organisation), p.most(q), what, key)
	}
	return refusal(key, defaultWait, "%s: it has %d of the %d %s that this node shares out (%s), and more wait: pull again in a moment",
		whose(q.organisation), q.used, p.Total, what, key)
}

func whose(organisation string) string {
	if organisation == "" {
		return "callers without an organisation"
	}
	return "organisation " + organisation
}

// refusal is the error of one who waited too long.
func refusal(rule string, after time.Duration, format string, args ...any) error {
	return &oci.Error{
		Class: oci.Policy, Status: http.StatusServiceUnavailable, Code: oci.CodeUnknown, Rule: rule,
		Message: fmt.Sprintf(format, args...), RetryAfter: after,
	}
}
