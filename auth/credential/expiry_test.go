package credential

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// jwt is a token that says when it ends; ecr is one as Amazon's.
func jwt(exp int64) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"RS256"}`) + "." + part(fmt.Sprintf(`{"exp":%d,"sub":"x"}`, exp)) + "." + part("signature")
}

func ecr(exp int64) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{"payload":"x","type":"DATA_KEY","expiration":%d}`, exp))
}

// A secret that says when it ends is believed that, whatever it is; anything else says
// nothing.
func TestExpiry(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for secret, want := range map[string]int64{
		jwt(now.Unix() + 600):   600,
		ecr(now.Unix() + 43200): 43200,
		jwt(now.Unix()):         0, // the clocks differ
		jwt(now.Unix() - 5):     0,
		jwt(1 << 60):            0,
		ecr(-1):                 0,
		"":                      0,
		"dckr_pat_abc":          0,
		"a.b.c":                 0,
		"..":                    0,
		base64.StdEncoding.EncodeToString([]byte(`{"Expiration":1800000600}`)):              0, // keys are read exactly
		base64.StdEncoding.EncodeToString([]byte(`{"expiration":"soon"}`)):                  0,
		base64.StdEncoding.EncodeToString([]byte(`[1800000600]`)):                           0,
		"x." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1800000600.5}`)) + ".y":  600,
		"x." + base64.URLEncoding.EncodeToString([]byte(`{"exp":1800000600, "a":1}`)) + ".": 600,
	} {
		got := int64(0)
		if at := expiryOf(secret, now); !at.IsZero() {
			got = at.Unix() - now.Unix()
		}
		if got != want {
			t.Errorf("%.60q: ends in %d s, want %d", secret, got, want)
		}
	}
}

// helped is an account whose secret is a helper's.
type helped struct {
	t     *testing.T
	now   time.Time
	file  string // what the helper says: user name and secret
	runs  func() []string
	table *Table
}

func newHelped(t *testing.T) *helped {
	h := &helped{t: t, now: time.Unix(1_800_000_000, 0), file: filepath.Join(t.TempDir(), "says")}
	h.runs = ocitest.CredentialHelper(t, "cloud", fmt.Sprintf(`[ -s %[1]s ] || { echo out of order; exit 1; }; read u s < %[1]s; echo "{\"Username\":\"$u\",\"Secret\":\"$s\"}"`, h.file))
	e := entryFor("acme", "cloud", "r.example")
	e.Source = HelperSource(Helper{Name: "cloud", Server: "r.example", Now: func() time.Time { return h.now }})
	h.table = mustCredentials(t, TableOptions{Key: NewKey(), Entries: []Entry{e}, Now: func() time.Time { return h.now }})
	return h
}

func (h *helped) says(text string) {
	h.t.Helper()
	if err := os.WriteFile(h.file, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *helped) lookup() *Credential {
	h.t.Helper()
	cred, err := h.table.Lookup(h.t.Context(), "acme", "", "r.example", "acme/app")
	if err != nil {
		return nil
	}
	return cred
}

// A helper's next secret is another version of the same credential, of which nothing
// can be read; another user is another credential.
func TestHelper_Rotates(t *testing.T) {
	h := newHelped(t)
	h.says("AWS first-secret\n")
	first := h.lookup()
	h.now = h.now.Add(helperKeeps)
	h.says("AWS second-secret\n")
	second := h.lookup()
	if first == nil || second == nil || second.Password.Reveal() != "second-secret" || second.Version == first.Version || second.Fingerprint != first.Fingerprint {
		t.Fatalf("%+v, then %+v", first, second)
	}
	if len(second.Version) != 2*fingerprintSize || second.Version == second.Fingerprint {
		t.Errorf("version %q of %q", second.Version, second.Fingerprint)
	}
	h.now = h.now.Add(helperKeeps)
	h.says("somebody second-secret\n")
	if other := h.lookup(); other == nil || other.Fingerprint == second.Fingerprint || other.Version == second.Version {
		t.Errorf("another user is the same: %+v", other)
	}
}

// A helper's secret ends when it says that it does, or an hour after it was given, also
// where the helper fails; and a reload asks for the next one at once.
func TestHelper_SecretEnds(t *testing.T) {
	for name, c := range map[string]struct {
		secret func(now int64) string
		ends   time.Duration
	}{
		"ECR":     {func(now int64) string { return ecr(now + 300) }, 5 * time.Minute},
		"Azure":   {func(now int64) string { return jwt(now + 1800) }, 30 * time.Minute},
		"unknown": {func(int64) string { return "opaque" }, helperLives},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHelped(t)
			h.says("AWS " + c.secret(h.now.Unix()) + "\n")
			if h.lookup() == nil {
				t.Fatal("not there at first")
			}
			begin := h.now
			h.says("")
			for h.now = begin; h.now.Before(begin.Add(c.ends - time.Second)); h.now = h.now.Add(time.Minute) {
				if h.lookup() == nil {
					t.Fatalf("gone after %v", h.now.Sub(begin))
				}
			}
			h.now = begin.Add(c.ends)
			if cred := h.lookup(); cred != nil {
				t.Errorf("it serves after its end")
			}
			h.says("AWS next\n")
			h.now = h.now.Add(time.Second)
			if cred := h.lookup(); cred == nil || cred.Password.Reveal() != "next" {
				t.Errorf("the next one: %+v", cred)
			}
		})
	}
	h := newHelped(t)
	h.says("AWS " + strings.Repeat("x", 20) + "\n")
	h.lookup()
	h.says("AWS renewed\n")
	h.now = h.now.Add(helperExpires)
	h.table.Renew()
	if errs := h.table.Check(t.Context()); len(errs) > 0 || h.lookup().Password.Reveal() != "renewed" {
		t.Errorf("after a reload: %v, %+v", errs, h.lookup())
	}
}
