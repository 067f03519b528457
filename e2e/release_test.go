//go:build e2e

package e2e

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// release is an image as a build makes it: for several platforms, with an attestation,
// signed, and under many tags.
type release struct {
	image
	signature string // its digest
}

const releaseTags = 12

// pushRelease puts one upstream. Its signature refers to it, and lies under cosign's own
// tag; where the registry has no referrers it is in the index under the fallback tag.
func pushRelease(t *testing.T, at *upstream, repo string) release {
	t.Helper()
	r := release{image: pushIndex(t, at, repo)}
	options := []remote.Option{remote.WithAuth(at.owner.authenticator()), remote.WithContext(t.Context())}
	reference := func(rest string) name.Reference {
		ref, err := name.ParseReference(at.addr+"/"+repo+rest, name.Insecure)
		must(t, err)
		return ref
	}
	index, err := remote.Index(reference("@"+r.digest), options...)
	must(t, err)
	for n := range releaseTags {
		must(t, remote.Tag(reference(fmt.Sprintf(":t%02d", n)).(name.Tag), index, options...))
	}
	subject, err := partial.Descriptor(index)
	must(t, err)
	base := mutate.MediaType(mutate.ConfigMediaType(empty.Image, "application/vnd.dev.cosign.artifact.sig.v1+json"), types.OCIManifestSchema1)
	signed, err := mutate.AppendLayers(base, layer(t, at.addr+"/"+repo+"/signature", 300))
	must(t, err)
	signature := mutate.Subject(signed, v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest}).(v1.Image)
	digest, err := signature.Digest()
	must(t, err)
	r.signature = digest.String()
	must(t, remote.Write(reference(":"+strings.Replace(r.digest, ":", "-", 1)+".sig"), signature, options...))
	return r
}

// Clients that look closely take a whole release through berth, from real registries:
// distribution behind tokens and behind Basic, which has no referrers, and
// go-containerregistry's own, which has.
func TestRelease_AtRealRegistries(t *testing.T) {
	if direct {
		t.Skip("E2E_DIRECT=1: this is about berth")
	}
	inProcess := httptest.NewServer(ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(inProcess.Close)
	w := &world{
		acme:   startTokenRegistry(t, "registry.acme.test", acmeUpstream),
		globex: startRegistry(t, "registry.globex.test", globexUpstream, globexHash),
		hub:    &upstream{name: "docker.io", tap: startTap(t, strings.TrimPrefix(inProcess.URL, "http://"))},
	}
	w.berth = startBerth(t, w)
	for client, check := range map[string]func(*testing.T, *world, release, login){
		"crane": craneRelease, "skopeo": skopeoRelease, "regctl": regctlRelease, "oras": orasRelease,
	} {
		for organisation, at := range map[string]*upstream{"acme": w.acme, "globex": w.globex, "nobody in particular": w.hub} {
			t.Run(client+"/"+at.name, func(t *testing.T) {
				as := w.as("acme")
				if at == w.globex {
					as = w.as(organisation)
				}
				check(t, w, pushRelease(t, at, "team/"+client), as)
			})
		}
	}
	noSecrets(t, w.berth)
}

// byDigest is the reference of what is to be had.
func (r release) byDigest(w *world, digest string) string {
	at := w.ref(r.image)
	return at[:strings.LastIndex(at, ":")] + "@" + digest
}

func wantTags(t *testing.T, out string) {
	t.Helper()
	all := strings.FieldsFunc(out, func(c rune) bool { return strings.ContainsRune(" \n\t\",[]", c) })
	for n := range releaseTags {
		if tag := fmt.Sprintf("t%02d", n); !slices.Contains(all, tag) {
			t.Errorf("the tag %s is not listed: %s", tag, out)
		}
	}
}

func wantIn(t *testing.T, out string, err error, want string) {
	t.Helper()
	if err != nil || !strings.Contains(out, want) {
		t.Errorf("%s is not in %s, %v", want, out, err)
	}
}

func craneRelease(t *testing.T, w *world, r release, as login) {
	t.Helper()
	dir, path := tempDir(t, "crane"), craneProgram.find(t)
	dockerConfig(t, dir, w.ref(r.image), as)
	crane := func(args ...string) (string, error) {
		return run(t, dir, []string{"DOCKER_CONFIG=" + dir}, path, args...)
	}
	for _, ref := range []string{w.ref(r.image), r.byDigest(w, r.digest), r.byDigest(w, r.signature)} {
		_, err := crane("pull", "--format", "oci", ref, filepath.Join(dir, "layout"))
		must(t, err)
	}
	_, err := crane("validate", "--remote", w.ref(r.image))
	must(t, err)
	repo, _, _ := strings.Cut(r.byDigest(w, ""), "@")
	out, err := crane("ls", repo)
	must(t, err)
	wantTags(t, out)
	out, err = crane("digest", repo+":"+strings.Replace(r.digest, ":", "-", 1)+".sig")
	wantIn(t, out, err, r.signature)
}

func skopeoRelease(t *testing.T, w *world, r release, as login) {
	t.Helper()
	dir, path := tempDir(t, "skopeo"), skopeo.find(t)
	for i, ref := range []string{w.ref(r.image), r.byDigest(w, r.digest), r.byDigest(w, r.signature)} {
		_, err := run(t, dir, nil, path, "--insecure-policy", "copy", "--all", "--src-tls-verify=false", "--src-creds="+as.pair(), "docker://"+ref, fmt.Sprintf("oci:%s:v%d", filepath.Join(dir, "layout"), i))
		must(t, err)
	}
	repo, _, _ := strings.Cut(r.byDigest(w, ""), "@")
	out, err := run(t, dir, nil, path, "list-tags", "--tls-verify=false", "--creds="+as.pair(), "docker://"+repo)
	must(t, err)
	wantTags(t, out)
}

func regctlRelease(t *testing.T, w *world, r release, as login) {
	t.Helper()
	dir, path := tempDir(t, "regctl"), regctlProgram.find(t)
	regctl := func(args ...string) (string, error) {
		return run(t, dir, []string{"REGCTL_CONFIG=" + filepath.Join(dir, "regctl.json")}, path, args...)
	}
	_, err := regctl("registry", "set", "--skip-check", "--tls", "disabled", w.berth.tokens)
	must(t, err)
	_, err = regctl("registry", "login", "--skip-check", "-u", as.user, "-p", as.password, w.berth.tokens)
	must(t, err)
	for i, ref := range []string{w.ref(r.image), r.byDigest(w, r.digest)} {
		copied := "ocidir://" + filepath.Join(dir, "layout") + fmt.Sprint(":v", i)
		_, err = regctl("image", "copy", "--referrers", "--digest-tags", ref, copied)
		must(t, err)
		out, err := regctl("artifact", "list", copied)
		wantIn(t, out, err, r.signature)
	}
	out, err := regctl("artifact", "list", w.ref(r.image))
	wantIn(t, out, err, r.signature)
	out, err = regctl("image", "digest", w.ref(r.image))
	wantIn(t, out, err, r.digest)
	repo, _, _ := strings.Cut(r.byDigest(w, ""), "@")
	all, last := "", ""
	for range releaseTags { // in pages
		args := []string{"tag", "ls", "--limit", "5", repo}
		if last != "" {
			args = append(args, "--last", last)
		}
		page, err := regctl(args...)
		must(t, err)
		tags := strings.Fields(page)
		if len(tags) == 0 || len(tags) > 5 {
			break
		}
		all, last = all+" "+page, tags[len(tags)-1]
	}
	wantTags(t, all)
}

func orasRelease(t *testing.T, w *world, r release, as login) {
	t.Helper()
	dir, path := tempDir(t, "oras"), orasProgram.find(t)
	oras := func(args ...string) (string, error) { return run(t, dir, nil, path, args...) }
	who := []string{"-u", as.user, "-p", as.password, "--plain-http"}
	for i, ref := range []string{w.ref(r.image), r.byDigest(w, r.digest)} {
		copied := fmt.Sprintf("%s:v%d", filepath.Join(dir, "layout"), i)
		_, err := oras("copy", "-r", "--from-username", as.user, "--from-password", as.password, "--from-plain-http", ref, "--to-oci-layout", copied)
		must(t, err)
		out, err := oras("discover", "--oci-layout", "--format", "json", copied)
		wantIn(t, out, err, r.signature)
	}
	out, err := oras(append([]string{"discover", "--format", "json"}, append(who, w.ref(r.image))...)...)
	wantIn(t, out, err, r.signature)
	out, err = oras(append([]string{"resolve"}, append(who, w.ref(r.image))...)...)
	wantIn(t, out, err, r.digest)
	repo, _, _ := strings.Cut(r.byDigest(w, ""), "@")
	out, err = oras(append([]string{"repo", "tags"}, append(who, repo)...)...)
	must(t, err)
	wantTags(t, out)
	out, err = oras(append([]string{"pull", "-o", filepath.Join(dir, "pulled")}, append(who, r.byDigest(w, r.signature))...)...)
	if err != nil {
		t.Errorf("pulling the signature: %s, %v", out, err)
	}
}
