package upstream

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/auth/credential"
)

// ways asks for one object in every way.
func ways(src oci.Source, repo string, manifest, blob oci.Digest) map[string]func(context.Context) error {
	open := func(kind oci.Kind, d oci.Digest) func(context.Context) error {
		return func(ctx context.Context) error {
			c, err := src.Open(ctx, oci.Object{Repo: repo, Kind: kind, Digest: d}, oci.Range{})
			if err == nil {
				c.Close()
			}
			return err
		}
	}
	stat := func(kind oci.Kind, d oci.Digest) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := src.Stat(ctx, oci.Object{Repo: repo, Kind: kind, Digest: d})
			return err
		}
	}
	return map[string]func(context.Context) error{
		"resolve": func(ctx context.Context) error {
			_, err := src.Resolve(ctx, repo, "v1")
			return err
		},
		"stat manifest": stat(oci.Manifest, manifest),
		"open manifest": open(oci.Manifest, manifest),
		"stat blob":     stat(oci.Blob, blob),
		"open blob":     open(oci.Blob, blob),
		"tags": func(ctx context.Context) error {
			_, err := src.List(ctx, oci.ListRequest{Kind: oci.Tags, Repo: repo})
			return err
		},
	}
}

func TestRefusals(t *testing.T) {
	good, other, wrong := as("acme", "alice", "secret"), as("acme", "bob", "secret"), as("acme", "alice", "old-password")
	none := Identity{Organisation: "acme"}
	for _, test := range []struct {
		name string
		o    ocitest.Options
		id   Identity
		want oci.Class
	}{
		{"bearer, good", ocitest.Options{Auth: ocitest.Bearer}, good, oci.Unclassified},
		{"basic, good", ocitest.Options{Auth: ocitest.Basic}, good, oci.Unclassified},
		{"no rights, scope", ocitest.Options{Auth: ocitest.Bearer}, other, oci.Denied},
		{"no rights, 403", ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseForbidden}, other, oci.Denied},
		{"no rights, 404", ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseNotFound}, other, oci.NotFound},
		{"no rights, token", ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseAtToken}, other, oci.Denied},
		{"no rights, basic 403", ocitest.Options{Auth: ocitest.Basic, Refusal: ocitest.RefuseForbidden}, other, oci.Denied},
		{"wrong password, token", ocitest.Options{Auth: ocitest.Bearer}, wrong, oci.Unauthorized},
		{"wrong password, basic", ocitest.Options{Auth: ocitest.Basic}, wrong, oci.Unauthorized},
		{"nobody, scope", ocitest.Options{Auth: ocitest.Bearer}, none, oci.NoCredential},
		{"nobody, 403", ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseForbidden}, none, oci.NoCredential},
		{"nobody, token", ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseAtToken}, none, oci.NoCredential},
		{"nobody, basic", ocitest.Options{Auth: ocitest.Basic}, none, oci.NoCredential},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.o.Private = true
			up := ocitest.New(t, test.o)
			up.AddUser("alice", "secret", "acme/app")
			up.AddUser("bob", "secret")
			img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2048}})
			src := over(t, up).As(test.id)
			for way, ask := range ways(src, "acme/app", img.Digest, img.Platforms[0].Layers[0]) {
				err := ask(t.Context())
				if test.want == oci.Unclassified {
					if err != nil {
						t.Errorf("%s: %v", way, err)
					}
					continue
				}
				e := classed(t, err, test.want)
				if !strings.Contains(e.Message, "registry.test") || test.want != oci.NotFound && !strings.Contains(e.Message, "organisation acme") {
					t.Errorf("%s: message %q does not name registry and organisation", way, e.Message)
				}
				for _, secret := range []string{"secret", "old-password"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%s: %q has the password in it", way, err)
					}
				}
			}
		})
	}
}

func TestNotFound(t *testing.T) {
	eachWay(t, func(t *testing.T, up *ocitest.Registry, src oci.Source) {
		up.AddRepo("acme/app")
		missing := oci.DigestOf([]byte("missing"))
		for way, ask := range ways(src, "acme/app", missing, missing) {
			if way == "tags" {
				continue
			}
			e := classed(t, ask(t.Context()), oci.NotFound)
			if strings.Contains(way, "blob") && e.WireCode() != oci.CodeBlobUnknown {
				t.Errorf("%s: code %s", way, e.WireCode())
			}
		}
	})
}

// A token that died before its time costs one more try, and nobody notices.
func TestExpiredToken(t *testing.T) {
	now := clock()
	up := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true})
	up.AddUser("alice", "secret", "acme/app")
	img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2048}})
	r := newRegistry(t, Options{Origin: up.Origin(), Now: now.Now})
	src := r.As(as("acme", "alice", "secret"))
	for way, ask := range ways(src, "acme/app", img.Digest, img.Platforms[0].Layers[0]) {
		up.ExpireTokens()
		now.advance(10)
		if err := ask(t.Context()); err != nil {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// A 401 that stays is asked about once more at most.
func TestStubbornUnauthorized(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer})
	up.AddImage("acme/app", "v1", ocitest.Image{})
	up.Inject(ocitest.Match{Kind: ocitest.Manifest}, 0, ocitest.Problem(401, "UNAUTHORIZED", "no"))
	src := over(t, up).As(as("acme", "alice", "secret"))
	up.AddUser("alice", "secret", "acme/app")
	_, err := src.Resolve(t.Context(), "acme/app", "v1")
	wantClass(t, err, oci.Denied)
	if n := up.Count(ocitest.Match{Kind: ocitest.Manifest}); n > 2 {
		t.Errorf("%d tries", n)
	}
}

func TestCredentialThatCannotBeRead(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	up.AddImage("acme/app", "v1", ocitest.Image{})
	broken := &oci.Error{Class: oci.Caller, Status: 503, Message: "organisation acme: the secret cannot be read"}
	src := over(t, up).As(Identity{Organisation: "acme", Credential: func(context.Context, string) (*credential.Credential, error) { return nil, broken }})
	if _, err := src.Resolve(t.Context(), "acme/app", "v1"); oci.ClassOf(err) != broken.Class || oci.AsError(err).Message != broken.Message {
		t.Errorf("%v", err)
	}
	if up.Count(ocitest.Match{}) != 0 {
		t.Error("the registry was asked without the credential")
	}
	a, b := src.Principal("acme/app"), src.Principal("acme/app")
	if a.Shared() || b.Shared() || a == b {
		t.Errorf("principals %v and %v: a proof for one would count for the other", a, b)
	}
}

func TestView(t *testing.T) {
	r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Before: withoutAuth})
	if v := r.As(Identity{Organisation: "acme"}).Principal("x"); v != (oci.Principal{}) {
		t.Errorf("without a credential: %v", v)
	}
	if v := r.As(as("acme", "a", "b")).Principal("x"); v.Organisation != "acme" || v.Fingerprint == "" {
		t.Errorf("with one: %v", v)
	}
	if v := r.As(as("", "a", "b")).Principal("x"); !v.Shared() || v.Fingerprint == "" {
		t.Errorf("with the registry's own: %v", v)
	}
}

func TestUnknownKind(t *testing.T) {
	src := newRegistry(t, Options{Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Before: withoutAuth}).As(Identity{})
	if _, err := src.Open(t.Context(), oci.Object{}, oci.Range{}); err == nil {
		t.Error("Open took no kind")
	}
	if _, err := src.Stat(t.Context(), oci.Object{}); err == nil {
		t.Error("Stat took no kind")
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []oci.Origin{{}, {Scheme: "ftp", Host: "x"}, {Scheme: "https", Host: "u:p@x"}, {Scheme: "https", Host: "x/y"}, {Scheme: "https", Host: "x?y"}, {Scheme: "https", Host: "%"}} {
		if _, err := New(Options{Name: "x", Origin: o, Before: withoutAuth}); err == nil {
			t.Errorf("%+v was taken for an origin", o)
		}
	}
	if _, err := New(Options{Origin: oci.Origin{Scheme: "https", Host: "x"}, TokenEndpoints: []string{"nowhere"}}); err == nil {
		t.Error("a token endpoint that is none was taken")
	}
}

// A helper's answer that has expired costs no pull: it is asked again, and so is the
// registry.
func TestHelpersSecretExpired(t *testing.T) {
	for name, kind := range map[string]ocitest.Auth{"tokens": ocitest.Bearer, "basic": ocitest.Basic} {
		t.Run(name, func(t *testing.T) {
			up := ocitest.New(t, ocitest.Options{Auth: kind, Private: true})
			up.AddUser("oauth2accesstoken", "one", "acme/app")
			d := up.AddManifest("acme/app", "1", v1.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":{},"layers":[]}`))
			dir := t.TempDir()
			write := func(file, text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			write("docker-credential-gcr", "#!/bin/sh\necho \"{\\\"Username\\\":\\\"oauth2accesstoken\\\",\\\"Secret\\\":\\\"$(cat "+dir+"/secret)\\\"}\"\n")
			write("secret", "one")
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			var late atomic.Int64
			now := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
			table, err := credential.NewTable(credential.TableOptions{Key: credential.NewKey(), Now: now, Entries: []credential.Entry{{
				Name: "gcp", Organisation: "acme", Registry: "registry.test", Origin: up.Origin(),
				Source: credential.HelperSource(credential.Helper{Name: "gcr", Server: "registry.test", Now: now}),
			}}})
			if err != nil {
				t.Fatal(err)
			}
			src := over(t, up).As(Identity{Organisation: "acme", Credential: func(ctx context.Context, repo string) (*credential.Credential, error) {
				return table.Lookup(ctx, "acme", "", "registry.test", repo)
			}})
			stat := func() error {
				_, err := src.Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: d})
				return err
			}
			if err := stat(); err != nil {
				t.Fatal(err)
			}
			late.Store(int64(10 * time.Minute))
			write("secret", "two")
			up.SetPassword("oauth2accesstoken", "two")
			up.ExpireTokens()
			if err := stat(); err != nil {
				t.Error(err)
			}
		})
	}
}
