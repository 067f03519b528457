package upstream

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	distributiontoken "github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	ggcrpartial "github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/bcrypt"

	"berth/internal/ocitest/zoo"
	"berth/oci"
)

// realOnes are registries that people run, in this process, with every kind of sign-in that
// they have; where they have one, alice is let in.
func realOnes() map[string]func(t *testing.T) string {
	return map[string]func(t *testing.T) string{
		"distribution":          func(t *testing.T) string { t.Helper(); return serve(t, distribution(t, "")) },
		"distribution htpasswd": withHtpasswd,
		"distribution token":    withTokens,
		"go-containerregistry": func(t *testing.T) string {
			t.Helper()
			return serve(t, ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
		},
	}
}

const alice, alicesPassword = "alice", "s3cret-of-alice"

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// distribution is its handlers, with this part of its own configuration.
func distribution(t *testing.T, auth string) http.Handler {
	t.Helper()
	config, err := configuration.Parse(strings.NewReader("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {inmemory: {}, maintenance: {uploadpurging: {enabled: false}}}\nhttp: {secret: made-up}\n" + auth))
	if err != nil {
		t.Fatal(err)
	}
	app := handlers.NewApp(t.Context(), config)
	t.Cleanup(func() { _ = app.Shutdown() })
	return app
}

func withHtpasswd(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(alicesPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(alice+":"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return serve(t, distribution(t, "auth: {htpasswd: {realm: made-up, path: '"+file+"'}}\n"))
}

// withTokens is distribution behind a token service on the same host, which gives alice
// what she asks for, and nobody else anything.
func withTokens(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Algorithm: string(jose.ES256), Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, public, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "one"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	url := serve(t, mux)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != alice || password != alicesPassword {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		now := time.Now()
		claims := distributiontoken.ClaimSet{Issuer: "made-up", Audience: distributiontoken.AudienceList{"registry.test"}, Expiration: now.Add(time.Minute).Unix(), NotBefore: now.Add(-time.Minute).Unix(), IssuedAt: now.Unix()}
		for _, scope := range r.URL.Query()["scope"] {
			if p := strings.Split(scope, ":"); len(p) == 3 {
				claims.Access = append(claims.Access, &distributiontoken.ResourceActions{Type: p[0], Name: p[1], Actions: strings.Split(p[2], ",")})
			}
		}
		token, err := jwt.Signed(signer).Claims(claims).Serialize() //nolint:misspell // the name is theirs
		if err != nil {
			panic(err) // a struct of strings and numbers
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
	})
	mux.Handle("/", distribution(t, fmt.Sprintf("auth: {token: {realm: '%s/token', service: registry.test, issuer: made-up, jwks: '%s', signingalgorithms: [ES256]}}\n", url, file)))
	return url
}

// realImage is an index of two images under four tags, with a signature.
type realImage struct {
	index     v1.ImageIndex
	signature oci.Digest
	fallback  string // the tag of the referrers' list, where there is no list
}

func digestOf(t *testing.T, of interface{ Digest() (v1.Hash, error) }) oci.Digest {
	t.Helper()
	h, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return oci.Digest(h.String())
}

func pushReal(t *testing.T, host string) realImage {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rt := &http.Transport{}
	t.Cleanup(rt.CloseIdleConnections)
	options := []remote.Option{remote.WithAuth(&authn.Basic{Username: alice, Password: alicesPassword}), remote.WithTransport(rt), remote.WithContext(t.Context())}
	ref := func(reference string) name.Reference {
		r, err := name.ParseReference(host+"/acme/app"+reference, name.Insecure)
		must(err)
		return r
	}
	index, err := random.Index(70_000, 2, 2)
	must(err)
	must(remote.WriteIndex(ref(":v1"), index, options...))
	for _, tag := range []string{":v2", ":v3", ":v4"} {
		must(remote.Tag(ref(tag).(name.Tag), index, options...))
	}
	subject, err := ggcrpartial.Descriptor(index)
	must(err)
	base, err := random.Image(300, 1)
	must(err)
	signature, ok := mutate.Subject(base, v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest}).(v1.Image)
	if !ok {
		t.Fatal("no image")
	}
	d := digestOf(t, signature)
	must(remote.Write(ref("@"+d.String()), signature, options...))
	return realImage{index, d, strings.Replace(digestOf(t, index).String(), ":", "-", 1)}
}

// What every Source does, at registries that nobody here has written.
func TestSource_AtRealRegistries(t *testing.T) {
	for kind, start := range realOnes() {
		t.Run(kind, func(t *testing.T) {
			url := start(t)
			host := strings.TrimPrefix(url, "http://")
			img := pushReal(t, host)
			r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: host}})
			r.pause = time.Millisecond
			src := r.As(as("acme", alice, alicesPassword))
			readReal(t, src, img)
			zoo.TestTags(t, src, "acme/app", map[bool]string{true: "n=2", false: "n=100"}[strings.HasPrefix(kind, "distribution")]) // the other one ends a page without a link
			signedReal(t, src, img)
			_, err := src.Resolve(t.Context(), "acme/app", "no-such-tag")
			wantClass(t, err, oci.NotFound)
			if strings.Contains(kind, " ") {
				for who, caller := range map[string]Identity{"a wrong password": as("acme", alice, "s3cret-wrong"), "nobody": {}} {
					_, err := r.As(caller).Resolve(t.Context(), "acme/app", "v1")
					if err == nil || !oci.ClassOf(err).Refuses() || strings.Contains(err.Error(), "s3cret") {
						t.Errorf("%s: %v", who, err)
					}
				}
				if _, err := src.Resolve(t.Context(), "acme/app", "v1"); err != nil {
					t.Errorf("whoever may: %v", err)
				}
			}
		})
	}
}

// readReal pulls everything by tag and digest, whole and in pieces.
func readReal(t *testing.T, src oci.Source, img realImage) {
	t.Helper()
	want, err := img.index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	d, err := src.Resolve(t.Context(), "acme/app", "v1")
	if err != nil || d.Digest != digestOf(t, img.index) || d.Size != int64(len(want)) {
		t.Fatalf("the tag is %+v, %v", d, err)
	}
	manifest := oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: d.Digest}
	c, err := src.Open(t.Context(), manifest, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c); !bytes.Equal(got, want) {
		t.Errorf("the index is %s", got)
	}
	if st, err := src.Stat(t.Context(), manifest); err != nil || st.Digest != d.Digest || st.Asked.IsZero() {
		t.Errorf("Stat: %+v, %v", st, err)
	}
	list, err := img.index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range list.Manifests {
		image, err := img.index.Image(one.Digest)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			content, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(content)
			if err != nil {
				t.Fatal(err)
			}
			o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: digestOf(t, l)}
			if st, err := src.Stat(t.Context(), o); err != nil || st.Size != int64(len(all)) || st.Asked.IsZero() {
				t.Errorf("Stat: %+v, %v", st, err)
			}
			for _, r := range []oci.Range{{}, {Length: 10}, {Start: 1000, Length: 500}, {Start: -7}, {Start: 5000}} {
				c, err := src.Open(t.Context(), o, r)
				if err != nil {
					t.Errorf("%+v: %v", r, err)
					continue
				}
				got := readAll(t, c)
				at := r.Start
				if at < 0 {
					at += int64(len(all))
				}
				if c.Offset > at || !bytes.Equal(got, all[c.Offset:c.Offset+int64(len(got))]) || c.Offset+int64(len(got)) < min(at+max(r.Length, 1), int64(len(all))) {
					t.Errorf("%+v: %d bytes from %d", r, len(got), c.Offset)
				}
			}
		}
	}
}

// signedReal finds the signature by referrers, or by the fallback tag where that is 404.
func signedReal(t *testing.T, src oci.Source, img realImage) {
	t.Helper()
	var text []byte
	page, err := src.List(t.Context(), oci.ListRequest{Kind: oci.Referrers, Repo: "acme/app", Digest: digestOf(t, img.index)})
	if err == nil {
		text = page.Body
	} else {
		wantClass(t, err, oci.NotFound)
		d, err := src.Resolve(t.Context(), "acme/app", img.fallback)
		if err != nil {
			t.Fatal(err)
		}
		c, err := src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: d.Digest}, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		text = readAll(t, c)
	}
	if !bytes.Contains(text, []byte(img.signature)) {
		t.Errorf("the signature is not in %s", text)
	}
}
