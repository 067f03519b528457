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
// membership of the object (likewise).
//
//	S serve, T serve with a warning, A ask for the object, F fetch it, R refuse
var released = []struct {
	why    string
	bytes  bool
	answer Answer
	grid   string
}{
	{"a cold miss needs no probe: the GET itself proves or denies", false, NotAsked, "FFFF FFFF FFFF FFFF"},
	{"only a fresh access of its own and a fresh membership need no question", true, NotAsked, "AAAA AAAA AAAA AAAS"},
	{"asked and answered, and nothing here to serve", false, Proven, "FFFF FFFF FFFF FFFF"},
	{"2xx for this object, to this principal: access and membership in one", true, Proven, "SSSS SSSS SSSS SSSS"},
	{"a denial: nothing, whatever was proven before", false, Refused, "RRRR RRRR RRRR RRRR"},
	{"a denial beats any proof, fresh ones too", true, Refused, "RRRR RRRR RRRR RRRR"},
	{"it is not there", false, NotThere, "RRRR RRRR RRRR RRRR"},
	{"404 may be a deletion or a revocation: the copy stays here", true, NotThere, "RRRR RRRR RRRR RRRR"},
	{"nothing was learned, and there is nothing to serve", false, Indeterminate, "RRRR RRRR RRRR RRRR"},
	{"nothing was learned: own earlier access within grace, and membership likewise", true, Indeterminate, "RRRR RTTT RTTT RTTT"},
	{"an answer that is neither yes nor no, and there is nothing to serve", false, NotUnderstood, "RRRR RRRR RRRR RRRR"},
	{"an answer that is neither yes nor no: an own earlier access, but not older than doubt", true, NotUnderstood, "RRRR RRRR RTTT RTTT"},
	{"limited, and there is nothing to serve", false, Limited, "RRRR RRRR RRRR RRRR"},
	{"limited: an own earlier access, but not older than doubt", true, Limited, "RRRR RRRR RTTT RTTT"},
	{"deleted upstream, and nothing to keep", false, Kept, "RRRR RRRR RRRR RRRR"},
	{"deleted upstream, and kept for those who had it", true, Kept, "RRRR RTTT RTTT RTTT"},
}

var letters = map[byte]Verdict{'S': Serve, 'T': ServeStale, 'A': Ask, 'F': Fetch, 'R': Refuse}

// expected reads the grids. It fails the test if a state is missing or twice.
func expected(t *testing.T) map[State]Verdict {
	t.Helper()
	want := map[State]Verdict{}
	for _, g := range released {
		rows := strings.Fields(g.grid)
		for access := None; access <= Fresh; access++ {
			for member := None; member <= Fresh; member++ {
				s := State{Access: access, Member: member, Bytes: g.bytes, Answer: g.answer}
				if _, twice := want[s]; twice {
					t.Fatalf("%+v is in the table twice", s)
				}
				want[s] = letters[rows[access][member]]
			}
		}
	}
	if len(want) != 4*4*2*8 {
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
		if v := Decide(State{Access: Fresh, Member: Fresh, Bytes: true, Answer: answer}); v != Refuse {
			t.Fatalf("answer %d: %d", answer, v)
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
		"bytes are not needed":              func(s State) Verdict { s.Bytes = true; return Decide(s) },
		"bytes are never used":              func(s State) Verdict { s.Bytes = false; return Decide(s) },
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
