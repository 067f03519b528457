package admin

import (
	"context"
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// quiet is a node that has done nothing so far.
func quiet() Status {
	return Status{
		Version: "1.0.0", PID: 7, Started: noon.Add(-40 * time.Second), Now: noon, UptimeSeconds: 40,
		Listeners:     []Listener{{Address: "localhost:5000", Sockets: []string{"127.0.0.1:5000", "[::1]:5000"}, Callers: "open", Registry: "docker.io"}},
		Configuration: Configuration{Applied: noon.Add(-40 * time.Second)},
		Cache:         Cache{Directory: "/var/cache/berth", LimitBytes: 100 << 30, DiskBytes: 500 << 30, FreeBytes: 320 << 30},
	}
}

// busy is one in the middle of its day, with a history.
func busy() (Status, *History) {
	s := quiet()
	s.UptimeSeconds = 9 * 24 * 3600
	s.Pulls = Pulls{Served: 12873, ChargedDockerHub: 214, Failed: 3, SavedBytes: 4200 << 30, FetchedBytes: 118 << 30, Requests: 98120, Hits: 95611}
	s.Listeners = append(s.Listeners, Listener{Address: "0.0.0.0:5443", Callers: "token", Registry: "docker.io", TLS: true, CertificateEnds: new(noon.AddDate(0, 2, 0))})
	s.Configuration.Main = &File{Path: "/etc/berth/config.yaml", State: Applied}
	s.Configuration.Organisations = []File{{Organisation: "acme", State: Applied}, {Organisation: "globex", State: Applied}, {Organisation: "initech", State: Applied}}
	s.Cache.Bytes, s.Cache.FreeBytes = 81<<30, 210<<30
	s.Accounts = []Account{
		{Organisation: "-", Registry: "docker.io", Name: "shared", State: AccountOK, RateLimit: new(int64(200)), RateLeft: new(int64(143))},
		{Organisation: "acme", Registry: "docker.io", Name: "hub", State: AccountOK},
		{Organisation: "acme", Registry: "ghcr.io", Name: "ci", State: AccountOK},
		{Organisation: "globex", Registry: "registry.digitalocean.com", Name: "main", State: AccountOK},
		{Organisation: "initech", Registry: "quay.io", Name: "robot", State: AccountUnused},
	}
	s.Fills = []Fill{
		{Registry: "docker.io", Repository: "library/postgres", Digest: "sha256:aa", Bytes: 96 << 20, Size: 141 << 20, Readers: 3},
		{Registry: "ghcr.io", Repository: "acme/app", Digest: "sha256:bb", Bytes: 3 << 20, Size: 220 << 20, Readers: 1},
		{Registry: "ghcr.io", Repository: "acme/app", Digest: "sha256:cc", Bytes: 0, Size: -1, Readers: 1},
	}
	s.Clients = []ClientPull{{"docker", noon.Add(-4 * time.Second)}, {"containerd", noon.Add(-3 * time.Minute)}, {"podman", noon.Add(-26 * time.Hour)}}
	return s, aDay()
}

// aDay is a history.
func aDay() *History {
	h := NewHistory(24 * 60)
	var p Pulls
	for i := range uint64(24 * 60) {
		wave := 3 + (i/40)%7 + (i*i)%5 // a day with better and worse hours
		if i > 500 && i < 560 {
			continue // the machine slept
		}
		p.Requests += wave
		p.Hits += wave - min(wave, (i/97)%3)
		p.SavedBytes += wave * wave * (9 << 20)
		h.Add(noon.Add(time.Duration(i)*time.Minute-24*time.Hour), p)
	}
	h.Add(noon, p)
	return h
}

// failing is one that somebody is called for.
func failing() (Status, *History) {
	s, h := busy()
	s.Pulls.Failed = 217
	s.Configuration.Main.State = Kept
	s.Configuration.Main.Errors = []string{`/etc/berth/config.yaml:12:3: listeners[0]: unknown key "calers": did you mean "callers"?`}
	s.Configuration.Organisations[2] = File{Organisation: "initech", State: Failed, Path: "/etc/berth/organisations.d/initech.yaml", Errors: []string{"/etc/berth/organisations.d/initech.yaml:1:9: tokens: a list is wanted"}}
	s.Accounts[0].RateLeft, s.Accounts[0].State, s.Accounts[0].CoolDownUntil = new(int64(0)), AccountResting, new(noon.Add(42*time.Minute))
	s.Accounts[2].State = AccountRefused
	s.Troubled = []string{"quay.io"}
	s.Bypasses = []Bypass{{"podman", "ghcr.io", noon.Add(-17 * time.Minute)}}
	s.Cache.Unwritable, s.Cache.FreeBytes = true, 1<<30
	s.Failures = []Failure{
		{Organisation: "acme", Registry: "ghcr.io", Repository: "acme/app", Reference: "1.4.2", Class: "unauthorized", Owner: "tenant", Message: `organisation acme: ghcr.io refused account "ci" (401): its token has expired or the user name is wrong; renew it and pull again`, RequestID: "k7f3q", Client: "docker", Count: 41, First: noon.Add(-time.Hour), Last: noon.Add(-9 * time.Second)},
		{Organisation: "globex", Registry: "docker.io", Repository: "library/nginx", Reference: "latest", Class: "rate_limited", Owner: "network", Message: "organisation globex: docker.io limits this node's address (no account connected); it refills in 42 min: connect a Docker Hub account or wait", RequestID: "b2c4d", Client: "containerd", Count: 7, First: noon.Add(-time.Hour), Last: noon.Add(-3 * time.Minute)},
		{Organisation: "-", Class: "caller", Owner: "operator", Message: "unknown organisation or wrong token", RequestID: "zzzzz", Client: "podman", Count: 1, First: noon.Add(-2 * time.Hour), Last: noon.Add(-2 * time.Hour)},
	}
	return s, h
}

// served gives the page of a status.
func served(t testing.TB, s Status, h *History, full bool) *http.Response {
	t.Helper()
	p := NewPage(PageOptions{Status: func(context.Context) (Status, error) { return s, nil }, History: h, Full: full, Local: true})
	r := httptest.NewRequest(http.MethodGet, "http://localhost:5001/", http.NoBody)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w.Result()
}

func textOf(t testing.TB, a *http.Response) string {
	t.Helper()
	var b strings.Builder
	if _, err := io.Copy(&b, a.Body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status  func() (Status, *History)
		want    []string // in both
		private []string // on the socket only
		not     []string
	}{
		"empty": {
			func() (Status, *History) { return quiet(), NewHistory(1) },
			[]string{"all well", "Nobody has pulled", "localhost:5000", "100 GiB", "40 s", "public images only"}, []string{"/var/cache/berth"},
			[]string{"Needs attention", "Accounts", "Last failures", "Being fetched"},
		},
		"busy": {
			busy,
			[]string{"all well", "12\u202f873", "214", "4.1 TiB", "97 %", "143 of 200", "not told", "last pull 4 s ago", "0.0.0.0:5443", "<small>TLS</small>", "24 hours", "96.0 MiB of 141 MiB"},
			[]string{"docker.io/library/postgres", "ghcr.io/acme/app", "/etc/berth/config.yaml"}, []string{"Needs attention"},
		},
		"failing": {
			failing,
			[]string{"7 things to look at", "podman goes around this node for ghcr.io", "went around for ghcr.io, 17 min ago", "quay.io does not answer", "account ci of organisation acme was refused by ghcr.io", "the node&#39;s own account is not used at docker.io until 12:42:00 UTC", "organisation initech cannot pull: error in", "cannot be written", "unauthorized", "9 s ago", "bad file"},
			[]string{"acme/app:1.4.2", "renew it and pull again", "calers", "initech.yaml"}, []string{"all well"},
		},
	} {
		for _, full := range []bool{true, false} {
			t.Run(name+map[bool]string{true: " on the socket", false: " over TCP"}[full], func(t *testing.T) {
				t.Parallel()
				s, h := c.status()
				a := served(t, s, h, full)
				text := textOf(t, a)
				if a.StatusCode != http.StatusOK || !strings.HasPrefix(text, "<!doctype html>") || !strings.HasSuffix(text, "</html>\n") {
					t.Fatalf("%d\n%s", a.StatusCode, text)
				}
				for _, want := range c.want {
					if !strings.Contains(text, want) {
						t.Errorf("%q is not on the page", want)
					}
				}
				for _, want := range c.private {
					if strings.Contains(text, want) != full {
						t.Errorf("%q is on the page: %v", want, !full)
					}
				}
				for _, not := range c.not {
					if strings.Contains(text, not) {
						t.Errorf("%q is on the page", not)
					}
				}
				if t.Failed() {
					t.Log(text)
				}
			})
		}
	}
}

// canaries puts a text of its own into every string of v, and gives them by where
// they are.
func canaries(v reflect.Value, path string, found map[string]string) {
	switch v.Kind() {
	case reflect.String:
		text := `<b id="c` + strconv.Itoa(len(found)) + `c">'&` // closes nothing if it is escaped
		if v.Type() == reflect.TypeFor[string]() {
			v.SetString(text)
			found[path] = text
		}
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		canaries(v.Elem(), path, found)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		canaries(v.Index(0), path, found)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(noon))
			return
		}
		for i := range v.NumField() {
			canaries(v.Field(i), path+"."+v.Type().Field(i).Name, found)
		}
	case reflect.Uint64:
		v.SetUint(3)
	case reflect.Int64:
		v.SetInt(3)
	}
}

// Whatever is in the status, nothing of it becomes markup; and over TCP there is
// no more than names of organisations, registries and accounts.
func TestPageEscapesAndKeeps(t *testing.T) {
	t.Parallel()
	var s Status
	found := map[string]string{}
	canaries(reflect.ValueOf(&s).Elem(), "", found)
	s.Configuration.Organisations[0].State = Failed
	s.Configuration.Main.State = Kept
	s.Accounts[0].State = AccountRefused
	s.Now = noon
	public := map[string]bool{
		".Version": true, ".Listeners.Address": true, ".Listeners.Organisation": true, ".Listeners.Registry": true,
		".Configuration.Reload.Organisations.Organisation": true, ".Configuration.Reload.NeedsRestart": true,
		".Troubled":              true,
		".Fleet.Away":            true, // "bucket" or "coordinator"
		".Accounts.Organisation": true, ".Accounts.Registry": true, ".Accounts.Name": true,
		".Fills.Registry": true, ".Clients.Client": true, ".Bypasses.Client": true, ".Bypasses.Registry": true,
		".Failures.Organisation": true, ".Failures.Registry": true, ".Failures.Class": true,
	}
	if len(found) < 30 {
		t.Fatalf("only %d texts", len(found))
	}
	for _, full := range []bool{true, false} {
		text := textOf(t, served(t, s, nil, full))
		shown := 0
		for path, canary := range found {
			if strings.Contains(text, canary) || strings.Contains(text, "<b id=") {
				t.Errorf("%s is markup on the page", path)
			}
			// The page has &#34; and &#39; for quotes, as html.EscapeString does.
			there := strings.Contains(text, html.EscapeString(canary))
			if there {
				shown++
			}
			if there && !full && !public[path] {
				t.Errorf("%s is on the page over TCP", path)
			}
		}
		if shown < 8 {
			t.Errorf("only %d texts are on the page (full: %v)", shown, full)
		}
	}
}

func TestPageHeaders(t *testing.T) {
	t.Parallel()
	s := quiet()
	p := NewPage(PageOptions{Status: func(context.Context) (Status, error) { return s, nil }, Local: true})
	for _, c := range []struct {
		method, path, host string
		header             [2]string
		want               int
		contentType        string
	}{
		{"GET", "/", "localhost:5001", [2]string{}, 200, "text/html; charset=utf-8"},
		{"HEAD", "/", "127.0.0.1:5001", [2]string{}, 200, "text/html; charset=utf-8"},
		{"GET", "/page.css", "[::1]:5001", [2]string{}, 200, "text/css; charset=utf-8"},
		{"GET", "/page.js", "localhost", [2]string{}, 200, "text/javascript; charset=utf-8"},
		{"GET", "/page.svg", "localhost", [2]string{}, 200, "image/svg+xml"},
		{"GET", "/", "rebound.example:5001", [2]string{}, 403, ""},
		{"GET", "/", "localhost.rebound.example", [2]string{}, 403, ""},
		{"GET", "/", "localhost:5001", [2]string{"Sec-Fetch-Site", "cross-site"}, 403, ""},
		{"GET", "/page/page.html", "localhost", [2]string{}, 404, ""},
		{"GET", "/nothing", "localhost", [2]string{}, 404, ""},
		{"POST", "/", "localhost", [2]string{}, 405, ""},
	} {
		r := httptest.NewRequest(c.method, c.path, http.NoBody)
		r.Host = c.host
		if c.header[0] != "" {
			r.Header.Set(c.header[0], c.header[1])
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != c.want || c.contentType != "" && w.Header().Get("Content-Type") != c.contentType {
			t.Errorf("%s %s at %s: %d, %s", c.method, c.path, c.host, w.Code, w.Header().Get("Content-Type"))
		}
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none';") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: %v", c.method, c.path, w.Header())
		}
	}
	broken := NewPage(PageOptions{Status: func(context.Context) (Status, error) { return Status{}, errors.New("secret") }})
	w := httptest.NewRecorder()
	broken.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Nothing comes from elsewhere, and nothing is written into the page that its
// own policy would keep from working.
func TestPageNeedsNothingElse(t *testing.T) {
	t.Parallel()
	s, h := failing()
	text := textOf(t, served(t, s, h, true))
	for _, not := range []string{"http://", "https://", "//", " style=", "<style", " onclick", "javascript:"} {
		if i := strings.Index(text, not); i >= 0 {
			t.Errorf("%q is on the page: %.80q", not, text[i:])
		}
	}
	for name := range pageTypes {
		file, err := pageFiles.ReadFile("page/" + name)
		if err != nil || name == "page.svg" {
			continue
		}
		if strings.Contains(string(file), "://") || strings.Contains(string(file), "@import") {
			t.Errorf("%s needs something else", name)
		}
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	h := NewHistory(3)
	for i := range uint64(5) {
		h.Add(noon.Add(time.Duration(i)*time.Minute), Pulls{Requests: i * 10, Hits: i * 9, SavedBytes: i})
	}
	p := h.Points()
	if len(p) != 3 || p[0].Pulls.Requests != 20 || p[2].Pulls.Requests != 40 {
		t.Fatalf("%+v", p)
	}
	h.Add(noon.Add(5*time.Minute), Pulls{Requests: 5}) // an organisation has gone
	slots := h.Slots(noon, noon.Add(6*time.Minute), 3)
	if !reflect.DeepEqual([]uint64{slots[0].Requests, slots[1].Requests, slots[2].Requests}, []uint64{0, 0, 10}) || slots[1].Known || !slots[2].Known {
		t.Errorf("%+v", slots)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	s := quiet()
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("%+v", p)
	}
	s.Accounts = []Account{{Organisation: Nobody, Registry: "docker.io", Name: Nobody, State: AccountOK, RateLimit: new(int64(100)), RateLeft: new(int64(9))}}
	s.Accounts = append(s.Accounts,
		Account{Organisation: "acme", Registry: "ghcr.io", Name: "ci", State: AccountOK, SecretError: "mode 0644", OldServes: true},
		Account{Organisation: Nobody, Registry: "quay.io", Name: "shared", State: AccountUnused, SecretError: "mode 0644"})
	s.Listeners[0].CertificateEnds = new(noon.AddDate(0, 0, 3))
	s.Configuration.NeedsRestart = []string{"cache.max_size"}
	s.Configuration.Warnings = []string{"one thing", "another"}
	texts := func(s *Status) (all []string) {
		for _, p := range s.Problems() {
			all = append(all, p.Text)
		}
		return all
	}
	all := texts(&s)
	want := []string{"the secret of the node's own account for quay.io cannot be used", "this node's address (without an account) has few pulls left at docker.io", "the new secret of account ci of organisation acme for ghcr.io cannot be used, the one before it serves for the moment", "the certificate of localhost:5000 ends on 2026-03-07", "cache.max_size has changed and needs a restart", "one thing", "another"}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("%q", all)
	}
	public := s.public()
	if all := texts(&public); all[len(all)-1] != "2 warnings about the configuration: berth status has them" || len(all) != len(want)-1 {
		t.Errorf("over TCP: %q", all)
	}
}
