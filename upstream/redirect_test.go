package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"berth/oci"
)

const canary = "Bearer canary-3f2a"

// bearer has the origin ask for tokens, which are the canary.
func bearer(http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/token" {
			return replyWith(http.StatusOK, `{"token":"`+strings.TrimPrefix(canary, "Bearer ")+`"}`), nil
		}
		return replyWith(http.StatusUnauthorized, "", "Www-Authenticate", `Bearer realm="https://`+r.URL.Host+`/token",service="x"`), nil
	})
}

// neighbourhood is an origin and everything that could be taken for it.
type neighbourhood struct {
	*stage
	origin             string // https://registry.test:port
	port, other, plain string
	first              string // Location of the origin's answer
	status             int
	hops               map[string]string // path -> Location
	target401          bool
}

var streetNames = []string{"registry.test", "sub.registry.test", "other.test", "test", "xregistry.test", "127.0.0.1"}

func newNeighbourhood(t *testing.T) *neighbourhood {
	n := &neighbourhood{stage: newStage(t), status: 307, hops: map[string]string{}}
	h := func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v2/"):
			w.Header().Set("Location", n.first)
			w.WriteHeader(n.status)
		case n.hops[r.URL.Path] != "":
			w.Header().Set("Location", n.hops[r.URL.Path])
			w.WriteHeader(n.status)
		case n.target401:
			w.Header().Set("WWW-Authenticate", `Basic realm="give it to me"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			_, _ = w.Write([]byte("content"))
		}
	}
	n.port = n.serve(t, true, h, streetNames...)
	n.other = n.serve(t, true, h, streetNames...)
	n.plain = n.serve(t, false, h)
	n.origin = "https://registry.test:" + n.port
	return n
}

func (n *neighbourhood) open(t *testing.T) (*oci.Content, error) {
	t.Helper()
	n.take()
	return n.registry(t).As(Identity{}).Open(t.Context(), anObject, oci.Range{})
}

func (n *neighbourhood) registry(t *testing.T) *Registry {
	t.Helper()
	return newRegistry(t, Options{
		Origin: oci.Origin{Scheme: "https", Host: "registry.test:" + n.port},
		CAs:    n.ca.pool, Resolver: n.dns.resolver(),
		Before: bearer,
	})
}

// The credential goes to the origin's scheme, host and port alone.
func TestRedirectMatrix(t *testing.T) {
	n := newNeighbourhood(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, test := range []struct {
			name, to   string
			credential bool
			refused    bool
		}{
			{name: "same origin, absolute", to: n.origin + "/blob", credential: true},
			{name: "same origin, relative", to: "/blob", credential: true},
			{name: "same origin, other case", to: "HTTPS://REGISTRY.test:" + n.port + "/blob", credential: true},
			{name: "same origin, scheme-relative", to: "//registry.test:" + n.port + "/blob", credential: true},
			{name: "other port", to: "https://registry.test:" + n.other + "/blob"},
			{name: "sub-domain", to: "https://sub.registry.test:" + n.port + "/blob"},
			{name: "similar name", to: "https://xregistry.test:" + n.port + "/blob"},
			{name: "other name", to: "https://other.test:" + n.port + "/blob"},
			{name: "the address behind it", to: "https://127.0.0.1:" + n.port + "/blob"},
			{name: "a dot at the end", to: "https://registry.test.:" + n.port + "/blob"},
			{name: "plain http, same name", to: "http://registry.test:" + n.plain + "/blob", refused: true},
			{name: "plain http, other name", to: "http://other.test:" + n.plain + "/blob", refused: true},
			{name: "user information", to: "https://registry.test:x@other.test:" + n.port + "/blob", refused: true},
			{name: "user information, same origin", to: "https://u:p@registry.test:" + n.port + "/blob", refused: true},
			{name: "another scheme", to: "ftp://registry.test/blob", refused: true},
			{name: "a file", to: "file:///etc/passwd", refused: true},
			{name: "no host", to: "https:///blob", refused: true},
			{name: "opaque", to: "https:blob", refused: true},
			{name: "nowhere", to: "", refused: true},
			{name: "rubbish", to: "https://%zz/?secret=1", refused: true},
			{name: "very long", to: "https://other.test:" + n.port + "/" + strings.Repeat("x", maxLocation), refused: true},
		} {
			t.Run(fmt.Sprint(status, " ", test.name), func(t *testing.T) {
				n.status, n.first = status, test.to
				c, err := n.open(t)
				if test.refused {
					wantClass(t, err, oci.UpstreamError)
				} else if err != nil {
					t.Fatal(err)
				} else if got := readAll(t, c); string(got) != "content" {
					t.Errorf("%q", got)
				}
				for i, s := range n.take() {
					want := canary
					if i > 0 && !test.credential {
						want = ""
					}
					if s.auth != want {
						t.Errorf("request %d, %s: Authorization %q, want %q", i, s.url, s.auth, want)
					}
					if s.method != http.MethodGet || s.header.Get("Cookie")+s.header.Get("Referer") != "" {
						t.Errorf("request %d: %s with %v", i, s.method, s.header)
					}
				}
			})
		}
	}
}

// Once the way has left the origin, nothing brings the credential back.
func TestRedirectAwayAndBack(t *testing.T) {
	n := newNeighbourhood(t)
	n.first = "https://other.test:" + n.port + "/away"
	n.hops["/away"] = n.origin + "/back"
	n.hops["/back"] = n.origin + "/blob"
	c, err := n.open(t)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, c)
	all := n.take()
	if len(all) != 4 || all[0].auth != canary {
		t.Fatalf("%+v", all)
	}
	for _, s := range all[1:] {
		if s.auth != "" {
			t.Errorf("%s got %q", s.url, s.auth)
		}
	}
	if c.Again != nil {
		t.Error("Again would ask the registry")
	}
}

// The origin is no authority for a way that has left it: asked without its
// credential, what it says there denies nothing and challenges nobody.
func TestOriginAtTheEndOfADetour(t *testing.T) {
	n := newNeighbourhood(t)
	n.first, n.target401 = "https://other.test:"+n.port+"/away", true
	n.hops["/away"] = n.origin + "/back"
	_, err := n.open(t)
	wantClass(t, err, oci.UpstreamError)
	for _, s := range n.take() {
		if strings.HasSuffix(s.url, "/back") && s.auth != "" {
			t.Errorf("%s got %q", s.url, s.auth)
		}
	}
}

// A HEAD does not leave the origin: what signed URLs answer to it is no answer.
func TestHeadThatLeaves(t *testing.T) {
	n := newNeighbourhood(t)
	away := n.serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		manifestHandler(w, r)
	}, streetNames...)
	n.first = "https://other.test:" + away + "/manifest"
	res, err := n.registry(t).As(Identity{}).Resolve(t.Context(), "acme/app", "v1")
	if err != nil || res.MediaType != index {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, s := range n.take() {
		if s.method == http.MethodHead && !strings.HasPrefix(s.url, n.origin) {
			t.Errorf("%s %s", s.method, s.url)
		}
	}
}

// CVE-2024-45336: a sub-domain in the middle must not bring it back either.
func TestRedirectChainOfSubdomains(t *testing.T) {
	n := newNeighbourhood(t)
	n.first = "https://other.test:" + n.port + "/1"
	n.hops["/1"] = "https://sub.registry.test:" + n.port + "/2"
	n.hops["/2"] = "https://sub.registry.test:" + n.port + "/blob"
	c, err := n.open(t)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, c)
	for i, s := range n.take() {
		if i > 0 && s.auth != "" {
			t.Errorf("%s got %q", s.url, s.auth)
		}
	}
}

func TestRedirectLimit(t *testing.T) {
	n := newNeighbourhood(t)
	n.first = "/1"
	for i := 1; i < 5; i++ {
		n.hops[fmt.Sprint("/", i)] = fmt.Sprint("/", i+1)
	}
	c, err := n.open(t)
	if err != nil {
		t.Fatalf("five redirects: %v", err)
	}
	readAll(t, c)
	n.hops["/5"] = "/6"
	_, err = n.open(t)
	wantClass(t, err, oci.UpstreamError)
	if all := n.take(); len(all) != 6 {
		t.Errorf("%d requests", len(all))
	}
	n.hops["/5"] = "/5"
	_, err = n.open(t)
	wantClass(t, err, oci.UpstreamError)
}

// A target that asks for credentials gets none; the registry is asked for
// another target, and then it is an error that denies nothing.
func TestTargetWantsCredentials(t *testing.T) {
	n := newNeighbourhood(t)
	n.first, n.target401 = "https://other.test:"+n.port+"/blob?X-Signature=canary-9b1c", true
	_, err := n.open(t)
	e := classed(t, err, oci.UpstreamError)
	if strings.Contains(err.Error(), "canary") || strings.Contains(e.Message, "?") {
		t.Errorf("the signature shows: %v", err)
	}
	asked := 0
	for _, s := range n.take() {
		if strings.HasPrefix(s.url, n.origin+"/v2/") {
			asked++
		}
		if strings.HasSuffix(s.url, "/blob") && s.auth != "" {
			t.Errorf("%s got %q", s.url, s.auth)
		}
	}
	if asked != 1 { // to be sent there again does not help
		t.Errorf("the registry was asked %d times", asked)
	}
}

// No error says where a redirect led but by its host.
func TestErrorsHideSignatures(t *testing.T) {
	n := newNeighbourhood(t)
	for _, to := range []string{
		"https://other.test:1/blob?X-Signature=canary-9b1c", // nobody listens
		"https://wrong-name.test:" + n.port + "/?X-Signature=canary-9b1c",
		"https://absent.example:1/?X-Signature=canary-9b1c",
		"https://u:canary-9b1c@other.test/",
		"http://other.test/?X-Signature=canary-9b1c",
		"https://other.test:" + n.port + "/\x7f?canary-9b1c",
		"gopher://other.test/?canary-9b1c",
	} {
		n.first = to
		_, err := n.open(t)
		if err == nil {
			t.Errorf("%s was followed", to)
			continue
		}
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("the signature shows: %v", err)
		}
	}
}

// The first failing target costs a second question, and no more.
func TestBetterTarget(t *testing.T) {
	n := newNeighbourhood(t)
	good := "https://other.test:" + n.port + "/blob"
	bad := n.serve(t, true, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, streetNames...)
	for _, first := range []string{"https://other.test:" + bad + "/blob", "https://other.test:1/blob"} {
		var asked atomic.Int32
		n.port = n.serve(t, true, func(w http.ResponseWriter, r *http.Request) {
			to := good
			if asked.Add(1) == 1 {
				to = first
			}
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}, streetNames...)
		c, err := n.open(t)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		readAll(t, c)
	}
}

func FuzzLocation(f *testing.F) {
	for _, s := range []string{"", "/x", "//h/x", "https://h/x?y#z", "http://h", "https://u@h/", "https://[::1%25eth0]/", "https://h:99999/", "\\\\h", "https://h\\@o/"} {
		f.Add(s)
	}
	from := mustURL(f, "https://registry.test/v2/a/blobs/sha256:x")
	f.Fuzz(func(t *testing.T, location string) {
		to, err := mayFollow(from, location)
		if err != nil {
			if len(location) > 12 && strings.Contains(err.Error(), location) {
				t.Errorf("the error quotes the Location: %v", err)
			}
			return
		}
		if to.Scheme != "https" || to.User != nil || to.Hostname() == "" || to.Fragment != "" {
			t.Errorf("%q became %q", location, to)
		}
	})
}
