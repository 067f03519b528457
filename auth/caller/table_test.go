package caller

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/internal/secret"
	"berth/oci"
)

func request(authorization string) *http.Request {
	r := &http.Request{Header: http.Header{}}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

func refusal(t *testing.T, err error) *oci.Error {
	t.Helper()
	e, ok := err.(*oci.Error) //nolint:errorlint // exactly that type is promised
	if !ok || e.Class != oci.Caller || e.Message == "" || strings.ContainsAny(e.Message, "\n\r") {
		t.Fatalf("%v (%T) is no refusal of a caller, in one line", err, err)
	}
	return e
}

func basicHeader(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestIdentify(t *testing.T) {
	acme, acme2, other, ended := NewToken(), NewToken(), NewToken(), NewToken()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	callers, err := NewTable([]Organisation{
		{Name: "acme", Tokens: []Token{
			{Name: "node-7", SHA256: HashToken(acme)},
			{Name: "node-8", SHA256: strings.ToUpper(HashToken(acme2)), NotAfter: now.Add(time.Hour)},
			{Name: "node-1", SHA256: HashToken(ended), NotAfter: now.Add(-time.Second)},
		}},
		{Name: "other", Tokens: []Token{{Name: "n", SHA256: HashToken(other)}}},
		{Name: "empty"},
	}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]struct {
		header string
		want   Caller
	}{
		"organisation":       {basicHeader("acme", acme.Reveal()), Caller{"acme", "", "node-7", Login}},
		"second token":       {basicHeader("acme", acme2.Reveal()), Caller{"acme", "", "node-8", Login}},
		"account":            {basicHeader("acme+ci", acme.Reveal()), Caller{"acme", "ci", "node-7", Login}},
		"account with plus":  {basicHeader("acme+ci+x", acme.Reveal()), Caller{"acme", "ci+x", "node-7", Login}},
		"empty account":      {basicHeader("acme+", acme.Reveal()), Caller{"acme", "", "node-7", Login}},
		"scheme in any case": {"bAsIc" + basicHeader("other", other.Reveal())[5:], Caller{"other", "", "n", Login}},
	}
	for name, tc := range good {
		if got, err := callers.Identify(request(tc.header)); err != nil || got != tc.want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, tc.want)
		}
	}
	bad := map[string]struct {
		header, says string
		status       int
	}{
		"nothing":                    {"", "docker login", 401},
		"nothing, as podman says it": {basicHeader("", ""), "docker login", 401},
		"bearer":                     {"Bearer abc", "cannot be read", 401},
		"no base64":                  {"Basic ***", "cannot be read", 401},
		"no colon":                   {"Basic " + base64.StdEncoding.EncodeToString([]byte("acme")), "cannot be read", 401},
		"too long":                   {basicHeader("acme", strings.Repeat("x", 4096)), "cannot be read", 401},
		"bare scheme":                {"Basic ", "cannot be read", 401},
		"wrong token":                {basicHeader("acme", "wrong"), "wrong token", 401},
		"empty token":                {basicHeader("acme", ""), "wrong token", 401},
		"another's token":            {basicHeader("acme", other.Reveal()), "wrong token", 401},
		"the hash":                   {basicHeader("acme", HashToken(acme)), "wrong token", 401},
		"unknown organisation":       {basicHeader("nobody", acme.Reveal()), "wrong token", 401},
		"no organisation":            {basicHeader("", acme.Reveal()), "wrong token", 401},
		"account only":               {basicHeader("+ci", acme.Reveal()), "wrong token", 401},
		"upper case":                 {basicHeader("ACME", acme.Reveal()), "wrong token", 401},
		"organisation without token": {basicHeader("empty", ""), "wrong token", 401},
		"token that ended":           {basicHeader("acme", ended.Reveal()), "ended on 2026-03-01", 401},
	}
	for name, tc := range bad {
		got, err := callers.Identify(request(tc.header))
		e := refusal(t, err)
		if got != (Caller{}) || e.HTTPStatus() != tc.status || !strings.Contains(e.Message, tc.says) {
			t.Errorf("%s: got %+v, %d %s; want %d with %q", name, got, e.HTTPStatus(), e, tc.status, tc.says)
		}
		for _, secret := range []secret.Text{acme, acme2, other, ended} {
			if strings.Contains(e.Error(), secret.Reveal()) {
				t.Errorf("%s: a token is in the message", name)
			}
		}
	}
	_, unknown := callers.Identify(request(basicHeader("nobody", "x")))
	_, wrong := callers.Identify(request(basicHeader("acme", "x")))
	if unknown.Error() != wrong.Error() {
		t.Errorf("an unknown organisation can be told from a wrong token: %q, %q", unknown, wrong)
	}
	now = now.Add(2 * time.Hour)
	if _, err := callers.Identify(request(basicHeader("acme", acme2.Reveal()))); err == nil {
		t.Error("a token works after its end")
	}
}

// A stranger learns neither which organisations there are nor which of them is broken:
// all logins that prove nobody get one answer, after as many comparisons. Who shows a
// good token is let in.
func TestIdentify_BrokenOrganisationIsNotTold(t *testing.T) {
	tokens := func(n int) (all []Token) {
		for range n {
			all = append(all, Token{Name: "n", SHA256: HashToken(NewToken())})
		}
		return all
	}
	good := NewToken()
	known := append(tokens(2), Token{Name: "good", SHA256: HashToken(good)})
	for _, broken := range []bool{false, true} {
		callers, err := NewTable([]Organisation{{Name: "acme", Tokens: known}, {Name: "one", Tokens: tokens(1)}, {Name: "damaged", Broken: broken}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if callers.most != 3 {
			t.Errorf("%d comparisons", callers.most)
		}
		var first *oci.Error
		for _, organisation := range []string{"nobody", "acme", "one", "damaged"} {
			_, err := callers.Identify(request(basicHeader(organisation, "x")))
			e := refusal(t, err)
			if first == nil {
				first = e
			}
			if e.Error() != first.Error() || e.HTTPStatus() != first.HTTPStatus() || e.RetryAfter != first.RetryAfter || strings.Contains(e.Message, "damaged") {
				t.Errorf("broken %t, %s: %d %s, and %d %s for nobody", broken, organisation, e.HTTPStatus(), e, first.HTTPStatus(), first)
			}
		}
		if want := map[bool]int{false: 401, true: 503}[broken]; first.HTTPStatus() != want {
			t.Errorf("broken %t: %d", broken, first.HTTPStatus())
		}
		if got, err := callers.Identify(request(basicHeader("acme", good.Reveal()))); err != nil || got.TokenName != "good" {
			t.Errorf("broken %t: %+v, %v", broken, got, err)
		}
	}
}

// An unknown organisation must do the look-up of a known one: here, that the
// stand-in has a token to compare and yet lets nobody in, not even with a
// password whose hash is the stand-in's.
func TestNobodyProvesNothing(t *testing.T) {
	o := nobody()
	if len(o.tokens) == 0 {
		t.Error("nothing is compared for an unknown organisation")
	}
	if o.prove([sha256.Size]byte{}, 3) != nil {
		t.Error("the stand-in let somebody in")
	}
}

func TestIdentifyDoesNotAllocate(t *testing.T) {
	token := NewToken()
	callers, err := NewTable([]Organisation{{Name: "acme", Tokens: []Token{{Name: "n", SHA256: HashToken(token)}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := request(basicHeader("acme", token.Reveal()))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := callers.Identify(r); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for each request", n)
	}
}

func TestNewCallersRefuses(t *testing.T) {
	hash := HashToken(NewToken())
	for name, orgs := range map[string][]Organisation{
		"twice":    {{Name: "acme"}, {Name: "acme"}},
		"bad hash": {{Name: "acme", Tokens: []Token{{Name: "n", SHA256: hash}, {Name: "m", SHA256: "PASTE"}}}},
	} {
		if _, err := NewTable(orgs, nil); err == nil || !strings.Contains(err.Error(), "acme") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckHash(t *testing.T) {
	sum := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return hex.EncodeToString(h[:])
	}
	for _, bad := range []string{
		"", "abc", strings.Repeat("g", 64), strings.Repeat("a", 63), strings.Repeat("a", 66), "sha256:" + sum("x"),
		sum(""), sum("test"), sum("password"), sum("acme"), strings.ToUpper(sum("test")), sum("\n"), sum("test\n"),
	} {
		err := CheckHash("acme", bad)
		if err == nil {
			t.Errorf("%q was taken", bad)
		} else if len(bad) > 3 && strings.Contains(err.Error(), bad) {
			t.Errorf("the error quotes what may be a token: %v", err)
		}
	}
	if err := CheckHash("acme", sum("other")); err != nil {
		t.Error(err)
	}
}

func TestNewToken(t *testing.T) {
	a, b := NewToken().Reveal(), NewToken().Reveal()
	random := strings.TrimPrefix(a, tokenPrefix)
	if a == b || len(random) < 26 || random == a { // 26 characters of base32 are 130 bits
		t.Errorf("tokens %q and %q", a, b)
	}
	if strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`:+"'\$&`, r) }) {
		t.Errorf("token %q needs quoting", a)
	}
}

func FuzzParseBasic(f *testing.F) {
	for _, s := range []string{"", "Basic ", "Basic YTpi", "basic YStiOmM=", "Basic YWNtZStjaTpwYXNz", "Bearer x", "Basic \n", "Basic " + strings.Repeat("A", 2000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		var buf [maxBasic]byte
		got, ok := parseBasic(header, &buf)
		r := request("")
		r.Header["Authorization"] = []string{header}
		user, password, std := r.BasicAuth()
		if ok && !std {
			t.Fatalf("%q: read here and not by net/http", header)
		}
		if !ok {
			if std && len(header) <= maxBasic {
				t.Fatalf("%q: read by net/http and not here", header)
			}
			return
		}
		joined := string(got.organisation)
		if len(joined) < len(user) {
			joined += "+" + string(got.account)
		}
		if joined != user || string(got.password) != password || strings.Contains(string(got.organisation), "+") {
			t.Fatalf("%q: %q %q %q, net/http has %q %q", header, got.organisation, got.account, got.password, user, password)
		}
	})
}

func secretText(s string) secret.Text { return secret.New(s) }
