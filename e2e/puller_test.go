//go:build e2e

package e2e

import (
	"fmt"
	"math"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// puller is a client: a daemon that a test talks to, or a command.
type puller interface {
	// pull fetches an image for this machine as somebody. It returns every digest
	// that the client knows the image by, or what it told its user.
	pull(t *testing.T, ref string, as login) ([]string, error)
	// explains says that the client shows its user the message of a refusal, not
	// only its status.
	explains() bool
}

// chooser is a client that takes the image of another platform when it is told to.
type chooser interface {
	pullFor(t *testing.T, ref, arch string, as login) error
}

// testPuller is what every client must be able to do, and what it must not be
// able to do. Each pull is of another image: nothing comes from the client's own store.
// name is what the client calls an image by.
func testPuller(t *testing.T, name func(*world, image) string, newPuller func(*testing.T, *world) puller) {
	t.Helper()
	w := newWorld(t)
	p := newPuller(t, w)

	t.Run("a private image", func(t *testing.T) {
		i := pushImage(t, w.acme, "team/private", 64<<10, 1<<20)
		mustPull(t, p, name(w, i), w.as("acme"), i.digest)
	})
	t.Run("an image of three platforms", func(t *testing.T) {
		i := pushIndex(t, w.acme, "team/platforms")
		mustPull(t, p, name(w, i), w.as("acme"), i.digest)
	})
	t.Run("by digest", func(t *testing.T) {
		i := pushPlatforms(t, w.acme, "team/digest", false)
		ref := name(w, i)
		mustPull(t, p, ref[:strings.LastIndex(ref, ":")]+"@"+i.digest, w.as("acme"), i.digest)
	})
	if c, ok := p.(chooser); ok {
		t.Run("all platforms", func(t *testing.T) {
			i := pushIndex(t, w.acme, "team/others")
			for _, arch := range []string{"s390x", "riscv64", runtime.GOARCH} {
				if err := c.pullFor(t, name(w, i), arch, w.as("acme")); err != nil {
					t.Errorf("%s: %v", arch, err)
				}
			}
		})
	}
	t.Run("large layers side by side", func(t *testing.T) {
		i := pushImage(t, w.acme, "team/large", 24<<20, 17<<20, 9<<20, 5<<20)
		mustPull(t, p, name(w, i), w.as("acme"), i.digest)
		if !direct {
			fetchedOnce(t, w.acme)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		i := pushImage(t, w.acme, "team/nobody", 4<<10)
		mustRefuse(t, p, name(w, i), login{}, refused)
	})
	t.Run("a wrong password", func(t *testing.T) {
		i := pushImage(t, w.acme, "team/wrong", 4<<10)
		mustRefuse(t, p, name(w, i), login{w.as("acme").user, "wrong"}, refused)
	})
	t.Run("another organisation's image, though it is cached", func(t *testing.T) {
		i := pushImage(t, w.acme, "team/secret", 4<<10)
		warm(t, w.ref(i), w.as("acme"))
		mustRefuse(t, p, name(w, i), w.as("globex"), refused, "globex", w.acme.name)
	})
	t.Run("an account whose password is out of date", func(t *testing.T) {
		i := pushImage(t, w.globex, "team/stale", 4<<10)
		mustRefuse(t, p, name(w, i), w.as("acme"), refused, "acme", "stale", w.globex.name)
	})
	t.Run("a tag that is not there", func(t *testing.T) {
		i := pushImage(t, w.acme, "team/there", 4<<10)
		i.tag = "not-there"
		mustRefuse(t, p, name(w, i), w.as("acme"), missing)
	})
	t.Run("a cached image costs upstream nothing", func(t *testing.T) {
		onlyBehindBerth(t)
		i := pushPlatforms(t, w.acme, "team/cached", false)
		warm(t, w.ref(i), w.as("acme"))
		before := len(w.acme.requests(""))
		mustPull(t, p, name(w, i), w.as("acme"), i.digest)
		if more := w.acme.requests("")[before:]; len(more) > 0 {
			t.Errorf("the second pull cost upstream %v", more)
		}
	})
	t.Run("a cached image while its registry is down", func(t *testing.T) {
		onlyBehindBerth(t)
		i := pushPlatforms(t, w.acme, "team/down", false)
		warm(t, w.ref(i), w.as("acme"))
		w.acme.cut()
		if err := w.acme.up(t.Context()); err == nil {
			t.Fatal("the registry still answers")
		}
		mustPull(t, p, name(w, i), w.as("acme"), i.digest)
	})
	if !direct {
		noSecrets(t, w.berth)
	}
}

func onlyBehindBerth(t *testing.T) {
	t.Helper()
	if direct {
		t.Skip("E2E_DIRECT=1: there is no cache")
	}
}

func mustPull(t *testing.T, p puller, ref string, as login, digest string) {
	t.Helper()
	digests, err := p.pull(t, ref, as)
	if err != nil {
		t.Fatalf("pulling %s as %q: %v", ref, as.user, err)
	}
	if !slices.Contains(digests, digest) {
		t.Errorf("pulled %s as %v, not as %s", ref, digests, digest)
	}
}

// How clients tell of a 401 or 403, of a 404, and of a 503. A client that came to an
// error of its own tells something else.
var (
	refused = regexp.MustCompile(`\b40[13]\b|(?i:unauthorized|denied|no basic auth|authentication required|authorization failed)`)
	missing = regexp.MustCompile(`\b404\b|(?i:not found|manifest[ _]unknown)`)

	unavailable = regexp.MustCompile(`\b503\b`)

	anything = regexp.MustCompile(`.`)
)

// mustRefuse pulls what must not be had, for this reason. Where berth refuses
// and the client shows messages, each of these words must be in what the user reads.
func mustRefuse(t *testing.T, p puller, ref string, as login, why *regexp.Regexp, words ...string) {
	t.Helper()
	digests, err := p.pull(t, ref, as)
	if err == nil {
		t.Fatalf("pulled %s as %q, and got %v", ref, as.user, digests)
	}
	t.Logf("the user reads: %v", err)
	if !why.MatchString(err.Error()) {
		t.Errorf("that is not %v", why)
	}
	if direct || !p.explains() {
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the user does not read %q", word)
		}
	}
}

// fetchedOnce says that no byte of a blob was asked of upstream twice.
func fetchedOnce(t *testing.T, u *upstream) {
	t.Helper()
	asked := map[string][]span{}
	for _, r := range u.requests("/blobs/sha256:") {
		if r.method != http.MethodGet || r.ranges == "bytes=0-0" { // the latter asks for a right, not for bytes
			continue
		}
		next := spanOf(r.ranges)
		for _, s := range asked[r.path] {
			if next.first <= s.last && s.first <= next.last {
				t.Errorf("upstream was asked for %s from %d and from %d: twice the same bytes", r.path, s.first, next.first)
			}
		}
		asked[r.path] = append(asked[r.path], next)
	}
	if len(asked) == 0 {
		t.Error("upstream was asked for no blob: this is no test")
	}
}

// span is a part of a blob, both ends included.
type span struct{ first, last int64 }

// spanOf reads a Range header; what has no end ends with the blob.
func spanOf(header string) span {
	s := span{0, math.MaxInt64}
	if n, err := fmt.Sscanf(header, "bytes=%d-%d", &s.first, &s.last); err != nil && n < 2 {
		s.last = math.MaxInt64
	}
	return s
}

// noSecrets says that no password and no token is in berth's log.
func noSecrets(t *testing.T, b *berth) {
	t.Helper()
	for _, secret := range []string{
		acmeUpstream.password, globexUpstream.password, "last-year's",
		callerToken("acme"), callerToken("globex"),
	} {
		if b.wrote(t, secret) {
			t.Errorf("berth wrote the secret %q to its log", secret)
		}
	}
}
