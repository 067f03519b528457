package proof

import "berth/oci"

// Age says how much a proof is worth now.
type Age uint8

// The ages of a proof. A proof with a later denial is None.
const (
	// None: never proven, denied since, older than grace, or older than doubt and
	// an answer that was not understood has come since.
	None Age = iota
	// Grace: stands in only where upstream gives no answer.
	Grace
	// Recent: stands in for an answer that was not understood too.
	Recent
	// Fresh: as good as asking.
	Fresh
)

// Answer is what upstream said when it was asked about the wanted object.
type Answer uint8

// The answers.
const (
	NotAsked      Answer = iota
	Proven               // 2xx
	Refused              // 401, 403: this principal may not
	NotThere             // 404
	Indeterminate        // nothing was learned: network, 5xx
	NotUnderstood        // somebody answered, and said neither yes nor no
	Limited              // 429, or a cool-down that repeats one
	Kept                 // 404, where what was deleted upstream is kept
)

// AnswerOf sorts an upstream's error; nil is Proven.
func AnswerOf(err error) Answer {
	if err == nil {
		return Proven
	}
	if oci.AsError(err).NotUnderstood {
		return NotUnderstood
	}
	switch c := oci.ClassOf(err); {
	case c.Refuses(), c == oci.Policy:
		return Refused
	case c == oci.NotFound:
		return NotThere
	case c == oci.RateLimited:
		return Limited
	case c.Indeterminate():
		return Indeterminate
	}
	// Corrupt, ClientGone and whatever comes later: nothing that would let
	// cached bytes go.
	return Refused
}

// Doubtful says that somebody answered, and not so that it tells whether the right is
// still there.
func (a Answer) Doubtful() bool { return a == NotUnderstood || a == Limited }

// Bytes says whether the bytes are here, and who delivered them. What came out of the
// fleet (package fleet) was put there by another node, so it counts as delivered by the
// origin only to whom that node could have shown it.
type Bytes uint8

// Where the bytes are from.
const (
	Absent     Bytes = iota
	FromOrigin       // the origin itself, to anyone
	FromScope        // the fleet, out of this principal's own scope
	FromPublic       // the fleet, out of the scope of what everyone is shown
	FromOther        // the fleet, out of another principal's scope
)

// here says whether the bytes may count for this principal at all.
func (b Bytes) here() bool { return b == FromOrigin || b == FromScope || b == FromPublic }

// State is everything that decides whether cached bytes may go to a principal.
type State struct {
	Access Age // this principal's proof for the repository
	Member Age // anyone's proof that the object is in the repository
	// Listed is anyone's proof that a manifest which lists the object is in the
	// repository. It counts for public bytes alone: whoever may push to a repository
	// may list there what he has never had.
	Listed Age
	Bytes  Bytes
	Answer Answer
}

// Verdict is what to do.
type Verdict uint8

// The verdicts.
const (
	// Refuse: nothing cached goes out; upstream's answer is the answer.
	Refuse Verdict = iota
	// Ask: put the wanted object to upstream, as this principal, and decide again.
	Ask
	// Fetch: get it from upstream, as this principal. The answer to that request
	// proves or denies by itself.
	Fetch
	// Serve the cached bytes.
	Serve
	// ServeStale: serve them with a warning, since upstream is in trouble.
	ServeStale
)

// Decide is the release rule. Bytes lie under the origin and scope that delivered them,
// so Bytes is provenance: what another one delivered is not there at all.
func Decide(s State) Verdict {
	if s.Bytes == FromPublic {
		s.Member = max(s.Member, s.Listed)
	}
	switch s.Answer {
	case NotAsked:
		return decideUnasked(s)
	case Proven:
		if s.Bytes.here() {
			return Serve
		}
		return Fetch
	case Indeterminate, Kept:
		if s.Bytes.here() && s.Access != None && s.Member != None {
			return ServeStale
		}
	case NotUnderstood, Limited:
		// Registries behind a single sign-on say no with a login page, others with
		// a 400 or a 409 where an account is suspended; and whoever has lost a right
		// can have himself limited. So this is no outage, and a proof outlives it for
		// less long.
		if s.Bytes.here() && s.Access >= Recent && s.Member != None {
			return ServeStale
		}
	}
	return Refuse
}

// decideUnasked goes by what has been proven before, while the registry has not been
// asked about the object now.
func decideUnasked(s State) Verdict {
	switch {
	case !s.Bytes.here():
		return Fetch
	case s.Access == Fresh && s.Member == Fresh:
		return Serve
	}
	return Ask
}
