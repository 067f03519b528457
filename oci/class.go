package oci

import "net/http"

// Class says what kind of failure happened and whose it is. Retry, stale
// copies, breakers, the answer to the client, metrics, logs and diagnose all
// decide by it. The zero Class means that nothing was classified; it behaves
// like UpstreamError.
type Class uint8

// The failure classes. Tenant: the organisation can mend it. Network: it may
// pass by itself. Operator: whoever runs the node can mend it.
const (
	Unclassified  Class = iota
	Unauthorized        // tenant: the credential was refused
	Denied              // tenant: the credential is good but may not read this, or existence is hidden
	NoCredential        // tenant: not public, and the organisation has no account there
	NotFound            // tenant: no such repository, tag or digest
	WrongPlatform       // tenant: the index lacks the client's platform; served, counted apart
	RateLimited         // network: pull limit or abuse limit
	Unreachable         // network: DNS, connect, TLS
	Timeout             // network: no header or no byte in time
	UpstreamError       // network: 5xx or nonsense
	Corrupt             // network: wrong digest, wrong size, cut short for good
	Disk                // operator: our disk; the pull went on without it
	Caller              // operator: unknown or unproven caller
	Policy              // operator: not allowed here
	ClientGone          // the client left
	numClasses
)

// classes is the one table of what a class means on the wire.
var classes = [numClasses]struct {
	name   string
	owner  string
	status int
	code   Code
}{
	Unclassified:  {"upstream_error", "network", http.StatusServiceUnavailable, CodeUnknown},
	Unauthorized:  {"unauthorized", "tenant", http.StatusForbidden, CodeDenied},
	Denied:        {"denied", "tenant", http.StatusForbidden, CodeDenied},
	NoCredential:  {"no_credential", "tenant", http.StatusForbidden, CodeDenied},
	NotFound:      {"not_found", "tenant", http.StatusNotFound, CodeManifestUnknown},
	WrongPlatform: {"wrong_platform", "tenant", http.StatusOK, ""},
	RateLimited:   {"rate_limited", "network", http.StatusTooManyRequests, CodeTooManyRequests},
	Unreachable:   {"unreachable", "network", http.StatusServiceUnavailable, CodeUnknown},
	Timeout:       {"timeout", "network", http.StatusServiceUnavailable, CodeUnknown},
	UpstreamError: {"upstream_error", "network", http.StatusServiceUnavailable, CodeUnknown},
	Corrupt:       {"corrupt", "network", http.StatusServiceUnavailable, CodeUnknown},
	Disk:          {"disk", "operator", http.StatusServiceUnavailable, CodeUnknown},
	Caller:        {"caller", "operator", http.StatusUnauthorized, CodeUnauthorized},
	Policy:        {"policy", "operator", http.StatusForbidden, CodeDenied},
	ClientGone:    {"client_gone", "-", 499, CodeUnknown},
}

// Classes lists every class that can be counted, in the order of the table in
// doc/design.md.
func Classes() []Class {
	all := make([]Class, 0, numClasses-1)
	for c := Unauthorized; c < numClasses; c++ {
		all = append(all, c)
	}
	return all
}

// String is the name used in metrics and logs: lower case, underscores.
func (c Class) String() string { return classes[c].name }

// Owner is who can mend it: tenant, network, operator, or "-" for nobody.
func (c Class) Owner() string { return classes[c].owner }

// Status is the HTTP status that a client gets, unless the Error says otherwise.
func (c Class) Status() int { return classes[c].status }

// Code is the error code that a client gets, unless the Error says otherwise.
func (c Class) Code() Code { return classes[c].code }

// Refuses says that the registry knows this principal and said no: whatever this
// principal had proven about the repository is void.
func (c Class) Refuses() bool { return c == Unauthorized || c == Denied || c == NoCredential }

// Indeterminate says that the answer tells nothing about rights or existence,
// so an earlier proof may stand in for it.
func (c Class) Indeterminate() bool {
	switch c {
	case Unclassified, RateLimited, Unreachable, Timeout, UpstreamError:
		return true
	}
	return false
}
