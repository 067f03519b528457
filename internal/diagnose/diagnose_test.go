package diagnose

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/internal/secret"
	"berth/oci"
	"berth/upstream"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

const canary = "canary-secret"

// stand is a test registry with an image, and how a walk asks it.
type stand struct {
	*ocitest.Registry
	subject

	image ocitest.Pushed
}

// subject is what a case may change.
type subject struct {
	Subject

	endpoint       string // another one than the registry's
	cas            *x509.CertPool
	resolver       *net.Resolver
	notNamed       bool // the dial policy holds for it
	tokenEndpoints []string
}

func newStand(t *testing.T, o ocitest.Options) *stand {
	t.Helper()
	s := &stand{Registry: ocitest.New(t, o)}
	s.image = s.AddImage("acme/app", "1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{5000, 6000}})
	s.AddUser("acme-bot", canary, "acme/**")
	kind, _ := dialect.TypeNamed("")
	s.Subject = Subject{
		Registry: "reg.test", Origin: s.Origin(), Type: kind, Organisation: "acme", Credential: s.account("acme-bot", canary),
		Repository: "acme/app", Reference: "1", Platform: oci.Platform{OS: "linux", Architecture: "arm64"},
	}
	s.cas = s.CertPool()
	return s
}

func (s *stand) account(user, password string) *credential.Credential {
	return &credential.Credential{
		Name: "ci", Organisation: "acme", Registry: "reg.test", Fingerprint: "f", Version: "f",
		Username: secret.New(user), Password: secret.New(password),
	}
}

// walk walks, and looks for secrets in what comes out.
func (s *stand) walk(t *testing.T) *Report {
	t.Helper()
	if s.endpoint != "" {
		u, err := url.Parse(s.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		s.subject.Origin = oci.Origin{Scheme: u.Scheme, Host: u.Host}
	}
	s.Connect = s.connect
	r := Run(t.Context(), s.Subject)
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), canary) {
		t.Errorf("there is a secret in %s", text)
	}
	return r
}

func (s *stand) connect(tap *Tap, m *upstream.Metrics) (*upstream.Registry, error) {
	o := upstream.Options{Name: "reg.test", Origin: s.subject.Origin, Type: s.Type, CAs: s.cas, Resolver: s.resolver, Metrics: m, TokenEndpoints: s.tokenEndpoints, Before: tap.Before}
	if !s.notNamed {
		for _, u := range []string{s.subject.Origin.URL(), s.URL(), s.TokenURL(), s.CDNURL()} {
			if named, err := url.Parse(u); err == nil && u != "" {
				o.Named = append(o.Named, named)
			}
		}
	}
	return upstream.New(o)
}

// steps are the names of the steps, with their states where those are not ok.
func steps(r *Report) string {
	var b strings.Builder
	for _, s := range r.Steps {
		b.WriteString(s.Name)
		if s.State != OK {
			b.WriteString("=" + string(s.State))
		}
		b.WriteByte(' ')
	}
	return strings.TrimSpace(b.String())
}

func (r *Report) last() Step { return r.Steps[len(r.Steps)-1] }

const signedIn = "name account dns=skipped connect tls=skipped /v2/ challenge realm token"

func TestAPullThatWorks(t *testing.T) {
	s := newStand(t, ocitest.Options{Auth: ocitest.Bearer, Private: true, CDN: ocitest.CDNPlain, PullLimit: 100, TLS: false})
	r := s.walk(t)
	if want := signedIn + " manifest platform blob ratelimit"; !r.OK || steps(r) != want || r.Class != "" || r.Account != "ci" {
		t.Fatalf("%+v\nwant %s", r, want)
	}
	found := map[string]string{}
	for _, step := range r.Steps {
		found[step.Name] = step.Detail
	}
	for name, want := range map[string]string{
		StepName: "acme/app of reg.test, 1, at http://127.0.0.1:", StepAccount: `account "ci" of acme`, StepConnect: s.Host(),
		StepRealm: s.TokenURL(), StepManifest: string(s.image.Digest), StepPlatform: string(s.image.Platforms[1].Manifest),
		StepBlob: strings.TrimPrefix(s.CDNURL(), "http://"), StepRateLimit: "98 of 100 pulls are left",
	} {
		if !strings.Contains(found[name], want) {
			t.Errorf("%s: %q, want %q", name, found[name], want)
		}
	}
}

// Whatever is wrong is told at the step where it is, with what to do.
func TestAPullThatFails(t *testing.T) {
	bearer := ocitest.Options{Auth: ocitest.Bearer, Private: true}
	for name, c := range map[string]struct {
		options ocitest.Options
		change  func(*testing.T, *stand)
		steps   string // before the one that fails
		fails   string
		class   oci.Class
		says    string
		hint    string
	}{
		"wrong password": {bearer, func(_ *testing.T, s *stand) { s.Credential = s.account("acme-bot", canary+"-old") },
			"name account dns=skipped connect tls=skipped /v2/ challenge realm", StepToken, oci.Unauthorized, `refused account "ci" (401)`, ""},
		"a secret of another registry": {bearer, func(_ *testing.T, s *stand) {
			s.Type, _ = dialect.TypeNamed(dialect.DockerHub)
			s.Credential = s.account("me@example.com", "ghp_"+canary)
		}, "name account dns=skipped connect tls=skipped /v2/ challenge realm", StepToken, oci.Unauthorized, "refused account", "looks like a personal access token of GitHub, and this is reg.test"},
		"no right": {bearer, func(_ *testing.T, s *stand) { s.SetRights("acme-bot") },
			signedIn, StepManifest, oci.Denied, "it may not read acme/app", ""},
		"nobody": {bearer, func(_ *testing.T, s *stand) { s.Credential = nil },
			signedIn, StepManifest, oci.NoCredential, "organisation acme has no account for reg.test", ""},
		"nobody gets a token": {ocitest.Options{Auth: ocitest.Bearer, Private: true, Refusal: ocitest.RefuseAtToken}, func(_ *testing.T, s *stand) { s.Credential = nil },
			"name account dns=skipped connect tls=skipped /v2/ challenge realm", StepToken, oci.NoCredential, "organisation acme has no account for reg.test", ""},
		"no such tag": {bearer, func(_ *testing.T, s *stand) { s.Reference = "mistyped" },
			signedIn, StepManifest, oci.NotFound, "no such tag", ""},
		"no such digest": {bearer, func(_ *testing.T, s *stand) { s.Reference = string(oci.DigestOf([]byte("nothing"))) },
			signedIn, StepManifest, oci.NotFound, "no such tag or digest", ""},
		"another platform": {bearer, func(_ *testing.T, s *stand) { s.Platform.Architecture = "s390x" },
			signedIn + " manifest", StepPlatform, oci.WrongPlatform, "not built for linux/s390x, it has linux/amd64, linux/arm64", ""},
		"another platform of one": {bearer, func(_ *testing.T, s *stand) {
			s.Reference = string(s.image.Platforms[0].Manifest)
		}, signedIn + " manifest", StepPlatform, oci.WrongPlatform, "not built for linux/arm64, it has only linux/amd64", ""},
		"a layer is gone": {bearer, func(_ *testing.T, s *stand) {
			s.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Problem(http.StatusNotFound, "BLOB_UNKNOWN", "gone"))
		}, signedIn + " manifest platform", StepBlob, oci.NotFound, "no such blob", ""},
		"limited": {ocitest.Options{Auth: ocitest.Bearer, Private: true, PullLimit: 1}, nil,
			signedIn + " manifest", StepPlatform, oci.RateLimited, `limits account "ci"`, ""},
		"a foreign realm": {ocitest.Options{Auth: ocitest.Bearer, TokenServer: true}, nil,
			"name account dns=skipped connect tls=skipped /v2/ challenge", StepRealm, oci.UpstreamError, "adds it to token_endpoints", ""},
		"no registry": {ocitest.Options{}, func(_ *testing.T, s *stand) {
			s.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusNotFound))
		}, "name account dns=skipped connect tls=skipped /v2/ challenge token=skipped", StepManifest, oci.NotFound, "no such tag or digest", ""}, // as at one of static files
		"a captive portal": {ocitest.Options{}, func(_ *testing.T, s *stand) {
			s.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusOK, "Content-Type", "text/html"))
		}, "name account dns=skipped connect tls=skipped /v2/=unknown challenge token=skipped", StepManifest, oci.UpstreamError, "", ""},
		"no registry, but something": {ocitest.Options{}, func(_ *testing.T, s *stand) {
			s.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusTeapot))
		}, "name account dns=skipped connect tls=skipped", StepPing, oci.UpstreamError, "does not answer like a registry (418 at /v2/)", ""},
		"nobody listens": {ocitest.Options{}, func(_ *testing.T, s *stand) { s.endpoint = "http://127.0.0.1:1" },
			"name account dns=skipped", StepConnect, oci.Unreachable, "refused", ""},
		"a private address": {ocitest.Options{}, func(_ *testing.T, s *stand) { s.notNamed = true },
			"name account dns=skipped", StepConnect, oci.Unreachable, "allow_private: [127.0.0.1/32]", ""},
		"no such name": {ocitest.Options{}, func(_ *testing.T, s *stand) {
			s.endpoint = "https://reg.invalid"
			s.resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("no name server")
			}}
		}, "name account", StepDNS, oci.Unreachable, "resolver", ""},
		"an unknown authority": {ocitest.Options{TLS: true}, func(_ *testing.T, s *stand) { s.cas = x509.NewCertPool() },
			"name account dns=skipped connect", StepTLS, oci.Unreachable, "set ca_file", ""},
		"an expired certificate": {ocitest.Options{}, func(t *testing.T, s *stand) {
			s.endpoint, s.cas = outOfTime(t, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		}, "name account dns=skipped connect", StepTLS, oci.Unreachable, "is after ", ""},
		"a certificate of tomorrow": {ocitest.Options{}, func(t *testing.T, s *stand) {
			s.endpoint, s.cas = outOfTime(t, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
		}, "name account dns=skipped connect", StepTLS, oci.Unreachable, "is before ", ""},
		"no TLS there": {ocitest.Options{}, func(_ *testing.T, s *stand) { s.endpoint = "https://" + s.Host() },
			"name account dns=skipped connect", StepTLS, oci.Unreachable, "speaks https", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, c.options)
			if c.change != nil {
				c.change(t, s)
			}
			r := s.walk(t)
			last := r.last()
			if want := c.steps + " " + c.fails + "=failed"; r.OK || steps(r) != want {
				t.Errorf("steps %s\n want %s", steps(r), want)
			}
			if lasting := strings.Contains(last.Detail, "certificate") || strings.Contains(last.Detail, "does not exist in the DNS") || strings.Contains(last.Detail, "allow_private") || strings.Contains(last.Detail, "speaks https"); r.Lasting != lasting {
				t.Errorf("lasting %v: %s", r.Lasting, last.Detail)
			}
			if r.Class != c.class.String() || r.Owner != c.class.Owner() || !strings.Contains(last.Detail, c.says) || strings.Contains(last.Detail, "\n") {
				t.Errorf("%s (%s): %q, want %s: %q", r.Class, r.Owner, last.Detail, c.class, c.says)
			}
			if got := strings.Join(r.Hints, "; "); !strings.Contains(got, c.hint) {
				t.Errorf("hints %q, want %q", got, c.hint)
			}
		})
	}
}

// outOfTime is a registry whose certificate is good for another time than now, and who has
// signed that.
func outOfTime(t *testing.T, from, until time.Time) (endpoint string, cas *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	cas = x509.NewCertPool()
	cas.AddCert(cert)
	return srv.URL, cas
}

// Without an image the account is tested, as docker login does.
func TestAnAccount(t *testing.T) {
	for name, c := range map[string]struct {
		auth  ocitest.Auth
		user  string
		ok    bool
		fails string
	}{
		"Bearer":                   {ocitest.Bearer, "acme-bot", true, ""},
		"Bearer and a wrong login": {ocitest.Bearer, "other", false, StepToken},
		"Basic":                    {ocitest.Basic, "acme-bot", true, ""},
		"Basic and a wrong login":  {ocitest.Basic, "other", false, StepLogin},
		"nobody":                   {ocitest.Bearer, "", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, ocitest.Options{Auth: c.auth, Private: true})
			s.Repository, s.Reference, s.Credential = "", "", s.account(c.user, canary)
			if c.user == "" {
				s.Credential = nil
			}
			r := s.walk(t)
			if r.OK != c.ok || c.fails != "" && (r.last().Name != c.fails || r.Class != "unauthorized") {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A public image is asked for without an account; an image that is for one
// platform says so in its configuration.
func TestAPublicImage(t *testing.T) {
	s := newStand(t, ocitest.Options{})
	s.Credential, s.Organisation = nil, ""
	s.Reference = string(s.image.Platforms[1].Manifest)
	r := s.walk(t)
	if want := "name account dns=skipped connect tls=skipped /v2/ challenge token=skipped manifest platform blob ratelimit=unknown"; !r.OK || steps(r) != want {
		t.Errorf("%+v\nwant %s", r, want)
	}
}

// A registry that never answers is given up in time.
func TestNobodyAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for timeouts")
	}
	s := newStand(t, ocitest.Options{})
	s.Inject(ocitest.Match{}, 0, ocitest.Silence())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	s.Connect = s.connect
	if r := Run(ctx, s.Subject); r.OK || r.last().State != Failed {
		t.Errorf("%+v", r)
	}
}

// Where an organisation chose the host, its addresses are not told: it could
// read the node's own DNS with them.
func TestAddressesOfAnOrganisation(t *testing.T) {
	s := newStand(t, ocitest.Options{})
	s.subject.Origin.Owner = "acme"
	s.Credential = nil
	for _, step := range s.walk(t).Steps {
		if step.Name == StepConnect && step.Detail != "" {
			t.Errorf("%+v", step)
		}
	}
}
