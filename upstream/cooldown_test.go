package upstream

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/upstream/classify"
	"berth/upstream/dialect"
)

const (
	pullLimitText = `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"}]}`
	ghcrText      = `{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 880.092µs, allowed: 44000/minute"}]}`
)

// limited is a registry whose answers follow the request.
type limited struct {
	*Registry

	seen []string
	told map[string]time.Time // organisation/account to until
}

func newLimited(t *testing.T, kind string, answer func(op string) *http.Response) *limited {
	t.Helper()
	l := &limited{told: map[string]time.Time{}}
	typed, _ := dialect.TypeNamed(kind)
	l.Registry = newRegistry(t, Options{
		Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Type: typed, Before: withoutAuth,
		CoolDown: func(organisation, account string, until time.Time) { l.told[organisation+"/"+account] = until },
	})
	rt := roundTripper(func(req *http.Request) (*http.Response, error) {
		op := "blob"
		if strings.Contains(req.URL.Path, "/manifests/") {
			op = "manifest"
		}
		op = req.Method + " " + op
		l.seen = append(l.seen, op)
		if r := answer(op); r != nil {
			r.Request = req
			return r, nil
		}
		if op == "GET blob" {
			return replyWith(200, "content", "Docker-Content-Digest", anObject.Digest.String()), nil
		}
		m := `{"schemaVersion":2,"layers":[]}`
		return replyWith(200, m, "Content-Type", "application/vnd.oci.image.manifest.v1+json", "Docker-Content-Digest", oci.DigestOf([]byte(m)).String()), nil
	})
	l.meta, l.blob = rt, rt
	return l
}

// each makes one call of each kind and says what it came to.
func (l *limited) each(t *testing.T, id Identity) string {
	t.Helper()
	src := l.As(id)
	m := oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: oci.DigestOf([]byte(`{"schemaVersion":2,"layers":[]}`))}
	_, head := src.Stat(t.Context(), m)
	_, get := src.Open(t.Context(), m, oci.Range{})
	c, blob := src.Open(t.Context(), anObject, oci.Range{})
	if blob == nil {
		readAll(t, c)
	}
	word := func(err error) string {
		if err == nil {
			return "ok"
		}
		return oci.ClassOf(err).String()
	}
	return fmt.Sprintf("HEAD %s, GET %s, blob %s", word(head), word(get), word(blob))
}

// filled are the options with their defaults.
func (o *Options) filled() *Options {
	filled := o.withDefaults()
	return &filled
}

// take gives what was asked since the last time.
func (l *limited) take() string {
	defer func() { l.seen = nil }()
	return strings.Join(l.seen, ", ")
}

// Docker Hub's two limits: the one on pulls stops an account's GETs of manifests
// and nothing else, the one on abuse stops everything for everyone.
func TestTwoLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := true
		l := newLimited(t, dialect.DockerHub, func(op string) *http.Response {
			if over && op == "GET manifest" {
				return replyWith(429, pullLimitText, "Retry-After", "2520")
			}
			return nil
		})
		acme, globex := as("acme", "a", "1"), as("globex", "g", "2")
		want := "HEAD ok, GET rate_limited, blob ok"
		for _, asked := range []string{"HEAD manifest, GET manifest, GET blob", "HEAD manifest, GET blob", "HEAD manifest, GET blob"} {
			if got := l.each(t, acme); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if got := l.take(); got != asked {
				t.Errorf("asked %s, want %s", got, asked)
			}
		}
		if until := l.told["acme/ci"]; time.Until(until) != 42*time.Minute {
			t.Errorf("it cools down until %v", until)
		}
		if got := l.each(t, globex); got != want {
			t.Errorf("globex: %s", got)
		}
		if got := l.take(); got != "HEAD manifest, GET manifest, GET blob" {
			t.Errorf("the limit of one account held for another: asked %s", got)
		}
		time.Sleep(40 * time.Minute)
		_, err := l.As(acme).Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: anObject.Digest}, oci.Range{})
		if e := classed(t, err, oci.RateLimited); e.RetryAfter != 2*time.Minute || !strings.Contains(e.Message, "refills in 2 min") || !strings.Contains(e.Message, `"ci"`) {
			t.Errorf("%v: %q", e.RetryAfter, e.Message)
		}
		time.Sleep(2 * time.Minute)
		over = false
		if got := l.each(t, acme); got != "HEAD ok, GET ok, blob ok" {
			t.Errorf("afterwards %s", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLimited(t, dialect.DockerHub, func(string) *http.Response { return replyWith(429, "Too Many Requests\n", "Retry-After", "30") })
		_, err := l.As(as("acme", "a", "1")).Open(t.Context(), anObject, oci.Range{})
		if e := classed(t, err, oci.RateLimited); e.Detail != classify.AbuseLimit {
			t.Errorf("%+v", e)
		}
		l.take()
		for _, id := range []Identity{as("acme", "a", "1"), as("globex", "g", "2"), {}} {
			if got := l.each(t, id); got != "HEAD rate_limited, GET rate_limited, blob rate_limited" {
				t.Errorf("%s: %s", id.Organisation, got)
			}
		}
		if got := l.take(); got != "" {
			t.Errorf("asked %s", got)
		}
		if until := l.told["/"]; time.Until(until) != 30*time.Second {
			t.Errorf("the node cools down until %v", until)
		}
	})
}

// A registry with one limit stops the account, and a time that it writes in the
// message or not at all is our own floor, doubled while it does not help.
func TestOneLimit(t *testing.T) {
	for name, c := range map[string]struct {
		answer *http.Response
		waits  []time.Duration
	}{
		"in the message": {replyWith(429, ghcrText), []time.Duration{time.Second, time.Second, time.Second}},
		"nothing":        {replyWith(429, "slow down"), []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute}},
		"a header":       {replyWith(429, "", "Retry-After", "90"), []time.Duration{90 * time.Second, 90 * time.Second}},
		"a week":         {replyWith(429, "", "Retry-After", "604800"), []time.Duration{6 * time.Hour}},
	} {
		synctest.Test(t, func(t *testing.T) {
			text := ghcrText
			if name != "in the message" {
				text = "slow down"
			}
			l := newLimited(t, dialect.GHCR, func(string) *http.Response {
				return &http.Response{StatusCode: http.StatusTooManyRequests, Header: c.answer.Header, Body: replyWith(0, text).Body, ContentLength: int64(len(text))}
			})
			src := l.As(as("acme", "a", "1"))
			for _, want := range c.waits {
				_, err := src.Open(t.Context(), anObject, oci.Range{})
				wantClass(t, err, oci.RateLimited)
				if got := time.Until(l.told["acme/ci"]); got != want {
					t.Errorf("%s: it cools down for %v, want %v", name, got, want)
				}
				l.take()
				if got := l.each(t, as("acme", "a", "1")); got != "HEAD rate_limited, GET rate_limited, blob rate_limited" || len(l.seen) != 0 {
					t.Errorf("%s: %s, asked %v", name, got, l.seen)
				}
				time.Sleep(want)
			}
		})
	}
}

// Several 429s to requests that were under way together are one.
func TestLimitedTogether(t *testing.T) {
	c := clock()
	a := newAccounts((&Options{Name: "x", Now: c.Now}).filled())
	limit := &oci.Error{Class: oci.RateLimited, Message: "slow down"}
	for _, want := range []time.Duration{limitPause, 2 * limitPause, 4 * limitPause} {
		for range 10 {
			a.limited(nil, "", limit, false)
		}
		if _, left := a.holds(nil, "", opBlob); left != want {
			t.Errorf("it holds for %v, want %v", left, want)
		}
		c.advance(int(want / time.Second))
	}
}

// A registry may pass on the 429 of another one, which whoever owns the repository chose.
// Others who have no account there, as he has none, or share the node's, are stopped for a
// moment; for as long as it says, once it has been said to them.
func TestCoolDown_MetByOneAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		all := false
		r := inMemoryRegistry(t, func(req *http.Request) (*http.Response, error) {
			asked = append(asked, req.URL.Path)
			answer := replyWith(200, "content", "Docker-Content-Digest", anObject.Digest.String())
			if all || strings.Contains(req.URL.Path, "/evil/") {
				answer = replyWith(429, "slow down", "Retry-After", "7200")
			}
			answer.Request = req
			return answer, nil
		})
		globex, acme := r.As(Identity{Payer: "globex"}), r.As(Identity{Payer: "acme"})
		open := func(src oci.Source, repo string) (string, int) {
			asked = nil
			c, err := src.Open(t.Context(), oci.Object{Repo: repo, Kind: oci.Blob, Digest: anObject.Digest}, oci.Range{})
			if err != nil {
				return oci.ClassOf(err).String(), len(asked)
			}
			readAll(t, c)
			return "ok", len(asked)
		}
		want := func(when string, src oci.Source, repo, word string, requests int) {
			t.Helper()
			if got, n := open(src, repo); got != word || n != requests {
				t.Errorf("%s: %s after %d requests, want %s after %d", when, got, n, word, requests)
			}
		}
		want("the owner", globex, "evil/app", "rate_limited", 1)
		want("at once", acme, "good/app", "rate_limited", 0)
		time.Sleep(othersPause)
		want("a minute later", acme, "good/app", "ok", 1)
		want("the owner, later", globex, "good/app", "rate_limited", 0)
		all = true
		want("it is true", acme, "good/app", "rate_limited", 1)
		time.Sleep(time.Hour)
		want("for as long as it said", acme, "good/app", "rate_limited", 0)
		time.Sleep(time.Hour)
		all = false
		want("afterwards", acme, "good/app", "ok", 1)
	})
}

// He may have any number of organisations meet it, again and again as soon as it is over:
// those who have not met it are stopped for a minute in a quarter of an hour.
func TestCoolDown_MetBySeveralOfOnePerson(t *testing.T) {
	for _, wait := range []string{"20", "61", "86400"} {
		synctest.Test(t, func(t *testing.T) {
			r := inMemoryRegistry(t, func(req *http.Request) (*http.Response, error) {
				answer := replyWith(200, "content", "Docker-Content-Digest", anObject.Digest.String())
				if strings.Contains(req.URL.Path, "/evil") {
					answer = replyWith(429, "slow down", "Retry-After", wait)
				}
				answer.Request = req
				return answer, nil
			})
			open := func(payer, repo string) error {
				c, err := r.As(Identity{Payer: payer}).Open(t.Context(), oci.Object{Repo: repo, Kind: oci.Blob, Digest: anObject.Digest}, oci.Range{})
				if err == nil {
					readAll(t, c)
				}
				return err
			}
			stopped, limited := 0, 0
			for second := range 3600 {
				if open("acme", "good/app") != nil {
					stopped++
				}
				if open(fmt.Sprint("globex", second%3), fmt.Sprint("evil", second%2, "/app")) != nil {
					limited++
				}
				time.Sleep(time.Second)
			}
			if most := 4 * int(othersPause/time.Second); limited != 3600 || stopped == 0 || stopped > most {
				t.Errorf("Retry-After %s: others were stopped for %d seconds of an hour, want %d at most; who means harm was limited in %d", wait, stopped, most, limited)
			}
		})
	}
}

// A storm of clients during a cool-down never reaches the registry.
func TestStormDuringCoolDown(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{100}})
	up.Inject(ocitest.Match{Method: http.MethodGet, Kind: ocitest.Manifest}, 0, ocitest.Problem(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.", "Retry-After", "60"))
	hub, _ := dialect.TypeNamed(dialect.DockerHub)
	r := newRegistry(t, Options{Origin: up.Origin(), Type: hub, Before: withoutAuth})
	src := r.As(Identity{Organisation: "acme"})
	for range 1000 {
		_, err := src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: img.Digest}, oci.Range{})
		if e := classed(t, err, oci.RateLimited); e.RetryAfter <= 0 || e.About.Organisation != "acme" {
			t.Fatalf("%+v", e)
		}
	}
	if n := up.ManifestGETs(); n != 1 {
		t.Errorf("%d requests reached the registry", n)
	}
}

// HEADs tell how much is left: a refilled limit ends its cool-down.
func TestRefilledLimit(t *testing.T) {
	left := "0"
	l := newLimited(t, dialect.DockerHub, func(op string) *http.Response {
		if op == "GET manifest" && left == "0" {
			return replyWith(429, pullLimitText, "Ratelimit-Limit", "100;w=21600", "Ratelimit-Remaining", "0;w=21600")
		}
		if op == "HEAD manifest" {
			m := `{"schemaVersion":2,"layers":[]}`
			r := replyWith(200, m, "Content-Type", "application/vnd.oci.image.manifest.v1+json", "Ratelimit-Limit", "100;w=21600", "Ratelimit-Remaining", left+";w=21600")
			r.ContentLength = int64(len(m))
			return r
		}
		return nil
	})
	acme := as("acme", "a", "1")
	if got := l.each(t, acme); got != "HEAD ok, GET rate_limited, blob ok" {
		t.Errorf("%s", got)
	}
	if rows := l.RateLimits(); len(rows) != 1 || rows[0].CoolDownUntil.IsZero() || *rows[0].Remaining != 0 || rows[0].Account != "ci" {
		t.Errorf("%+v", rows)
	}
	left = "100"
	if got := l.each(t, acme); got != "HEAD ok, GET ok, blob ok" {
		t.Errorf("with pulls left: %s", got)
	}
	if until := l.told["acme/ci"]; !until.IsZero() {
		t.Errorf("it still cools down until %v", until)
	}
}

// What is known of limits: a row for each account, a line in the log when little
// is left, and nothing where the registry tells nothing.
func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		told := []string{"100;w=21600", "60;w=21600"}
		l := newLimited(t, dialect.DockerHub, func(string) *http.Response { return nil })
		l.accounts.log = slog.New(slog.NewTextHandler(&log, nil))
		rt := roundTripper(func(*http.Request) (*http.Response, error) {
			r := replyWith(200, "content")
			if told != nil {
				r.Header.Set("Ratelimit-Limit", told[0])
				r.Header.Set("Ratelimit-Remaining", told[1])
			}
			return r, nil
		})
		l.meta, l.blob = rt, rt
		ask := func(id Identity) {
			c, err := l.As(id).Open(t.Context(), anObject, oci.Range{})
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, c)
		}
		if rows := l.RateLimits(); len(rows) != 0 {
			t.Errorf("rows from nowhere: %+v", rows)
		}
		acme, start := as("acme", "a", "1"), time.Now()
		ask(acme)
		time.Sleep(time.Hour)
		told[1] = "21;w=21600"
		ask(acme)
		if log.Len() > 0 {
			t.Errorf("too early: %s", &log)
		}
		for _, left := range []string{"19", "18", "17"} { // one line
			told[1] = left
			ask(acme)
		}
		told[1] = "100"
		ask(Identity{})
		rows := l.RateLimits()
		if len(rows) != 2 || rows[0].Organisation != "" || rows[1].Organisation != "acme" {
			t.Fatalf("%+v", rows)
		}
		row := rows[1]
		if *row.Limit != 100 || *row.Remaining != 17 || row.Window != 6*time.Hour || !row.AsOf.Equal(time.Now()) || !row.Refills.Equal(start.Add(6*time.Hour)) || row.Registry != "registry.test" {
			t.Errorf("%+v", row)
		}
		told[1] = "90" // a new window, and down again
		ask(acme)
		told[1] = "5"
		ask(acme)
		if n := strings.Count(log.String(), "little is left"); n != 2 {
			t.Errorf("%d warnings: %s", n, &log)
		}
		told = nil
		ask(acme) // unknown is not zero, and does not end what was known
		if rows := l.RateLimits(); *rows[1].Remaining != 5 {
			t.Errorf("%+v", rows[1])
		}
		l.Forget("acme", "ci")
		if rows := l.RateLimits(); len(rows) != 1 {
			t.Errorf("after it was forgotten: %+v", rows)
		}
		ask(as("acme", "a", "another secret"))
		if rows := l.RateLimits(); slices.ContainsFunc(rows, func(r RateLimit) bool { return r.Organisation == "acme" }) {
			t.Errorf("a limit that nobody told: %+v", rows)
		}
	})
}

// A new secret may be another user's: what held for the old one is over.
func TestNewSecretEndsCoolDown(t *testing.T) {
	limit := true
	l := newLimited(t, dialect.Generic, func(string) *http.Response {
		if limit {
			return replyWith(429, "", "Retry-After", "3600")
		}
		return nil
	})
	if got := l.each(t, as("acme", "a", "1")); got != "HEAD rate_limited, GET rate_limited, blob rate_limited" || len(l.seen) != 1 {
		t.Errorf("%s, asked %v", got, l.seen)
	}
	limit = false
	if got := l.each(t, as("acme", "a", "2")); got != "HEAD ok, GET ok, blob ok" {
		t.Errorf("with another secret: %s", got)
	}
}
