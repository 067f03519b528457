package proof

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"berth/oci"
)

// released is the rule in words, a letter for each state. In each grid the rows
// are the access of this principal (none, grace, recent, fresh) and the columns the
// membership of the object (likewise). A rule is for the places that bytes may be
// from: o the origin, s this principal's scope, p the public scope, x another's scope,
// and - for nowhere.
//
//	S serve, T serve with a warning, A ask for the object, F fetch it, R refuse
var released = []struct {
	why    string
	bytes  string
	answer Answer
	grid   string
}{
	{"a cold miss needs no probe: the GET itself proves or denies; what came out of another's scope is as if it were not there", "-x", NotAsked, "FFFF FFFF FFFF FFFF"},
	{"only a fresh access of its own and a fresh membership need no question", "osp", NotAsked, "AAAA AAAA AAAA AAAS"},
	{"asked and answered, and nothing here to serve", "-x", Proven, "FFFF FFFF FFFF FFFF"},
	{"2xx for this object, to this principal: access and membership in one", "osp", Proven, "SSSS SSSS SSSS SSSS"},
	{"a denial beats any proof, fresh ones too", "-ospx", Refused, "RRRR RRRR RRRR RRRR"},
	{"404 may be a deletion or a revocation: the copy stays here", "-ospx", NotThere, "RRRR RRRR RRRR RRRR"},
	{"nothing was learned, and there is nothing to serve", "-x", Indeterminate, "RRRR RRRR RRRR RRRR"},
	{"nothing was learned: own earlier access within grace, and membership likewise", "osp", Indeterminate, "RRRR RTTT RTTT RTTT"},
	{"an answer that is neither yes nor no, and there is nothing to serve", "-x", NotUnderstood, "RRRR RRRR RRRR RRRR"},
	{"an answer that is neither yes nor no: an own earlier access, but not older than doubt", "osp", NotUnderstood, "RRRR RRRR RTTT RTTT"},
	{"limited, and there is nothing to serve", "-x", Limited, "RRRR RRRR RRRR RRRR"},
	{"limited: an own earlier access, but not older than doubt", "osp", Limited, "RRRR RRRR RTTT RTTT"},
	{"deleted upstream, and nothing to keep", "-x", Kept, "RRRR RRRR RRRR RRRR"},
	{"deleted upstream, and kept for those who had it", "osp", Kept, "RRRR RTTT RTTT RTTT"},
}

// listedFor says from where bytes may be whose membership a manifest that lists them may
// stand in for: those that everyone is shown. A private blob that somebody lists in a
// manifest of his own stays private.
const listedFor = "p"

var places = map[rune]Bytes{'-': Absent, 'o': FromOrigin, 's': FromScope, 'p': FromPublic, 'x': FromOther}

var letters = map[byte]Verdict{'S': Serve, 'T': ServeStale, 'A': Ask, 'F': Fetch, 'R': Refuse}

// expected reads the grids. It fails the test if a state is missing or twice.
func expected(t *testing.T) map[State]Verdict {
	t.Helper()
	want := map[State]Verdict{}
	for _, g := range released {
		rows := strings.Fields(g.grid)
		for _, place := range g.bytes {
			for access := None; access <= Fresh; access++ {
				for member := None; member <= Fresh; member++ {
					for listed := None; listed <= Fresh; listed++ {
						s := State{Access: access, Member: member, Listed: listed, Bytes: places[place], Answer: g.answer}
						if _, twice := want[s]; twice {
							t.Fatalf("%+v is in the table twice", s)
						}
						column := member
						if strings.ContainsRune(listedFor, place) && listed > member {
							column = listed
						}
						want[s] = letters[rows[access][column]]
					}
				}
			}
		}
	}
	if len(want) != 4*4*4*5*8 {
		t.Fatalf("the table has %d states", len(want))
	}
	return want
}

// differences says where decide departs from the table.
func differences(want map[State]Verdict, decide func(State) Verdict) (all []string) {
	for s, v := range want {
		if got := decide(s); got != v {
			all = append(all, fmt.Sprintf("%+v: %d, want %d", s, got, v))
		}
	}
	return all
}

func TestDecideOnEveryState(t *testing.T) {
	for _, d := range differences(expected(t), Decide) {
		t.Error(d)
	}
}

// An answer that nobody has thought of releases nothing.
func TestDecideRefusesUnknownAnswers(t *testing.T) {
	for answer := Kept + 1; answer != 0; answer++ {
		if v := Decide(State{Access: Fresh, Member: Fresh, Bytes: FromOrigin, Answer: answer}); v != Refuse {
			t.Fatalf("answer %d: %d", answer, v)
		}
	}
}

// Bytes that are from somewhere nobody has thought of are not there.
func TestDecideDoesNotServeBytesFromUnknownPlaces(t *testing.T) {
	for bytes := FromOther + 1; bytes != 0; bytes++ {
		for answer := NotAsked; answer <= Kept; answer++ {
			s := State{Access: Fresh, Member: Fresh, Listed: Fresh, Answer: answer}
			absent := Decide(s)
			s.Bytes = bytes
			if v := Decide(s); v != absent {
				t.Fatalf("%+v: %d, want %d", s, v, absent)
			}
		}
	}
}

// The table is worth something only if it notices a wrong rule.
func TestTheTableCatchesMutants(t *testing.T) {
	want := expected(t)
	mutants := map[string]func(State) Verdict{
		"access within grace is fresh":     func(s State) Verdict { s.Access = min(s.Access*3, Fresh); return Decide(s) },
		"membership within grace is fresh": func(s State) Verdict { s.Member = min(s.Member*3, Fresh); return Decide(s) },
		"all of grace is recent":           func(s State) Verdict { s.Access = max(s.Access, min(s.Access*2, Recent)); return Decide(s) },
		"anyone's access will do":          func(s State) Verdict { s.Access = Fresh; return Decide(s) },
		"membership is not looked at":      func(s State) Verdict { s.Member = Fresh; return Decide(s) },
		"no grace": func(s State) Verdict {
			if s.Access < Recent {
				s.Access = None
			}
			return Decide(s)
		},
		"a refusal is a passing trouble":    as(Refused, Indeterminate),
		"a 404 is a passing trouble":        as(NotThere, Indeterminate),
		"trouble is a proof":                as(Indeterminate, Proven),
		"a riddle is as good as silence":    as(NotUnderstood, Indeterminate),
		"a riddle is a proof":               as(NotUnderstood, Proven),
		"a riddle is a refusal":             as(NotUnderstood, Refused),
		"silence is as bad as a riddle":     as(Indeterminate, NotUnderstood),
		"a limit is as good as silence":     as(Limited, Indeterminate),
		"a limit is a proof":                as(Limited, Proven),
		"a limit is a refusal":              as(Limited, Refused),
		"a refusal is a proof":              as(Refused, Proven),
		"trouble is as if nobody had asked": as(Indeterminate, NotAsked),
		"bytes are not needed":              func(s State) Verdict { s.Bytes = FromOrigin; return Decide(s) },
		"bytes are never used":              func(s State) Verdict { s.Bytes = Absent; return Decide(s) },
		"a scope is everyone's":             from(FromScope, FromPublic),
		"the fleet is the origin":           from(FromOther, FromOrigin),
		"another's scope is public":         from(FromOther, FromPublic),
		"another's scope is one's own":      from(FromOther, FromScope),
		"the origin's bytes are public":     from(FromOrigin, FromPublic),
		"public bytes are the origin's":     from(FromPublic, FromOrigin),
		"public bytes are not used":         from(FromPublic, Absent),
		"one's own scope is not used":       from(FromScope, Absent),
		"stale needs no warning": func(s State) Verdict {
			if v := Decide(s); v != ServeStale {
				return v
			}
			return Serve
		},
	}
	for one := range want { // and every rule that is wrong in one state only
		for v := Refuse; v <= ServeStale; v++ {
			if v != want[one] {
				mutants[fmt.Sprintf("%+v is %d", one, v)] = func(s State) Verdict {
					if s == one {
						return v
					}
					return Decide(s)
				}
			}
		}
	}
	for name, mutant := range mutants {
		if len(differences(want, mutant)) == 0 {
			t.Errorf("not caught: %s", name)
		}
	}
}

func from(from, to Bytes) func(State) Verdict {
	return func(s State) Verdict {
		if s.Bytes == from {
			s.Bytes = to
		}
		return Decide(s)
	}
}

func as(from, to Answer) func(State) Verdict {
	return func(s State) Verdict {
		if s.Answer == from {
			s.Answer = to
		}
		return Decide(s)
	}
}

func TestAnswerOf(t *testing.T) {
	byClass := map[oci.Class]Answer{
		oci.Unauthorized: Refused, oci.Denied: Refused, oci.NoCredential: Refused, oci.Policy: Refused,
		oci.NotFound:    NotThere,
		oci.RateLimited: Limited,
		oci.Unreachable: Indeterminate, oci.Timeout: Indeterminate, oci.UpstreamError: Indeterminate,
		// Nothing that would let cached bytes go.
		oci.Corrupt: Refused, oci.Disk: Refused, oci.Caller: Refused, oci.ClientGone: Refused, oci.WrongPlatform: Refused,
	}
	for _, c := range oci.Classes() {
		want, ok := byClass[c]
		if got := AnswerOf(fmt.Errorf("asking: %w", &oci.Error{Class: c, Message: "m"})); !ok || got != want {
			t.Errorf("%s: %d, want %d (in the table: %v)", c, got, want, ok)
		}
	}
	for _, c := range []struct {
		err  error
		want Answer
	}{
		{nil, Proven},
		{errors.New("connection reset"), Indeterminate},
		{context.DeadlineExceeded, Indeterminate},
		{context.Canceled, Refused},
		{fmt.Errorf("asking: %w", &oci.Error{Class: oci.UpstreamError, NotUnderstood: true, Message: "m"}), NotUnderstood},
		{&oci.Error{Class: oci.Denied, NotUnderstood: true, Message: "a page with 403"}, NotUnderstood},
		{&oci.Error{Class: oci.NotFound, NotUnderstood: true, Message: "a page with 404"}, NotUnderstood},
		{&oci.Error{Class: oci.Corrupt, NotUnderstood: true, Message: "another digest"}, NotUnderstood},
	} {
		if got := AnswerOf(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}
