package proxy

import (
	"net"
	"net/http"
	"strconv"
	"time"

	"berth/internal/audit"
	"berth/oci"
)

// audit writes the line of this request: of every request for a manifest, and of
// whatever else was refused. An invitation to log in is no refusal. It runs before the
// header leaves, so that no manifest leaves without its line.
func (q *request) audit(status int) {
	verdict := q.verdict(status)
	if q.parsed.Endpoint != oci.EndpointManifest && verdict != audit.Refused ||
		q.failure != nil && q.isChallenge(q.failure) {
		return
	}
	e := audit.Entry{
		Time: time.Now().UTC(), RequestID: q.id, Verdict: verdict,
		Organisation: q.caller.Organisation, Token: q.caller.TokenName, Account: q.caller.Account,
		Client: q.client, Address: addressOf(q.r.RemoteAddr),
		Method: oci.OneLine(q.r.Method, 16), Kind: kindOf(q.parsed.Endpoint),
		Image: q.imageName(), Digest: string(q.contentDigest()), Status: status,
		Stranger: !q.identified,
	}
	if f := q.failure; f != nil {
		e.Class, e.Rule, e.Message = f.Class.String(), f.Rule, q.message(f)
	} else {
		e.Source, e.Bytes = source(q.outcome.Result), q.willSend(status)
	}
	q.h.Audit.Write(&e)
}

// verdict is what became of the request.
func (q *request) verdict(status int) audit.Verdict {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return audit.Refused
	case q.failure != nil:
		return audit.Failed
	case q.outcome.Result == oci.Stale:
		return audit.Stale
	case q.outcome.Result == oci.Pass && !q.w.noBody: // a HEAD keeps nothing in any case
		return audit.Bypassed
	}
	return audit.Allowed
}

// willSend is how many bytes of content the answer has.
func (q *request) willSend(status int) int64 {
	if q.w.noBody || status == http.StatusNotModified || status == http.StatusPreconditionFailed {
		return 0
	}
	n, err := strconv.ParseInt(q.w.under.Header().Get("Content-Length"), 10, 64)
	if err != nil {
		return 0 // every manifest is in memory, and so has a length
	}
	return n
}

// imageName is what was asked for, as people write it: with the registry where it is
// known, else as the name came.
func (q *request) imageName() string {
	name, registry := q.repository(), q.registryName()
	if registry == "" {
		registry = q.parsed.NS
	}
	if registry != "" && name != "" {
		name = registry + "/" + name
	}
	if q.parsed.Tag != "" {
		name += ":" + q.parsed.Tag
	}
	return oci.OneLine(name, maxMessage)
}

// addressOf is the host of an address with a port.
func addressOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
