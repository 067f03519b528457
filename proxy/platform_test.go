package proxy

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

const ociIndex = "application/vnd.oci.image.index.v1+json"

// indexOf is an index with images for platforms.
func indexOf(platforms ...string) *thing {
	var entries []string
	for i, p := range platforms {
		system, architecture, _ := strings.Cut(p, "/")
		entries = append(entries, fmt.Sprintf(
			`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":1,"platform":{"os":%q,"architecture":%q}}`,
			oci.DigestOf(fmt.Append(nil, i)), system, architecture))
	}
	return &thing{mediaType: ociIndex, data: []byte(`{"schemaVersion":2,"manifests":[` + strings.Join(entries, ",") + `]}`)}
}

const dockerOn = "docker/29.0.0 go/go1.26.1 git-commit/abc kernel/6.1.0 os/linux arch/%s UpstreamClient(Docker-Client/29.0.0 \\(darwin\\) os/windows arch/s390x)"

// A pull is HEAD by tag and GET by digest, as dockerd and containerd do it, or
// GET by tag, as podman does; each counts once, and its line in the log says what
// there is.
func TestWrongPlatform(t *testing.T) {
	agent := fmt.Sprintf(dockerOn, "riscv64")
	s, f, now := keeping(t, nil)
	d := s.fake.put("acme/app", oci.Manifest, indexOf("linux/s390x", "unknown/unknown", "windows/amd64"))
	s.fake.tags["acme/app:7"] = d
	for range 2 {
		s.head("/v2/ghcr.io/acme/app/manifests/7", "User-Agent", agent).wants(t, http.StatusOK)
		s.get("/v2/ghcr.io/acme/app/manifests/"+string(d), "User-Agent", agent).wants(t, http.StatusOK)
		s.get("/v2/ghcr.io/acme/app/manifests/7", "User-Agent", agent).wants(t, http.StatusOK)
		*now = now.Add(time.Minute)
	}
	s.server.Close()
	if got := s.value("berth_wrong_platform_total", "organisation", "acme", "registry", "ghcr.io"); got != 2 {
		t.Errorf("counted %v times", got)
	}
	if got := s.value("berth_pull_failures_total"); got != 0 {
		t.Errorf("%v failures", got)
	}
	const message = "organisation acme: acme/app:7 of ghcr.io is not built for linux/riscv64, it has linux/s390x, windows/amd64: build it for linux/riscv64 too, or pull another"
	all := f.Of("acme", time.Time{})
	if len(all) != 1 || all[0].Class != oci.WrongPlatform || all[0].Message != message || all[0].Count != 2 || all[0].Reference != "7" {
		t.Errorf("%+v", all)
	}
	for _, line := range s.log.lines(t) {
		if line["method"] == "GET" && (line["class"] != "wrong_platform" || line["message"] != message || line["status"] != 200.0) {
			t.Errorf("%v", line)
		}
	}
}

func TestRightPlatform(t *testing.T) {
	for _, c := range []struct {
		agent   string
		index   *thing
		foreign bool
	}{
		{fmt.Sprintf(dockerOn, "arm64"), indexOf("linux/amd64", "linux/arm64"), false},
		{fmt.Sprintf(dockerOn, "arm64"), indexOf("linux/amd64"), true},
		{fmt.Sprintf(dockerOn, "arm64"), indexOf("linux/arm"), false},
		{fmt.Sprintf(dockerOn, "amd64"), indexOf("linux/386"), false},
		{fmt.Sprintf(dockerOn, "386"), indexOf("linux/amd64"), true},
		{fmt.Sprintf(dockerOn, "amd64"), indexOf("windows/amd64"), true},
		// Whoever does not say runs on this node.
		{"containerd/v2.1.0", indexOf(runtime.GOOS + "/" + runtime.GOARCH), false},
		{"containerd/v2.1.0", indexOf("linux/mips64le"), true},
		{"containerd/v2.1.0 os/linux arch/mips64le", indexOf("linux/mips64le"), true},
		{"docker/29.0.0", indexOf("linux/mips64le"), true},
		{fmt.Sprintf(dockerOn, `x"y`), indexOf(runtime.GOOS + "/" + runtime.GOARCH), false},
		// An index that does not tell.
		{"", indexOf(), false},
		{"", indexOf("unknown/unknown"), false},
		{"", indexOf("linux/"), false},
		{"", &thing{mediaType: ociIndex, data: []byte(`{"manifests":[{"digest":"sha256:x"}]}`)}, false},
		{"", &thing{mediaType: ociIndex, data: []byte(`{"manifests":7}`)}, false},
		{"", &thing{mediaType: "application/vnd.oci.image.manifest.v1+json", data: []byte(`{"manifests":[{"platform":{"os":"a","architecture":"b"}}]}`)}, false},
	} {
		s, f, _ := keeping(t, nil)
		d := s.fake.put("acme/app", oci.Manifest, c.index)
		s.get("/v2/ghcr.io/acme/app/manifests/"+string(d), "User-Agent", c.agent).wants(t, http.StatusOK).sends(t, c.index.data)
		s.server.Close()
		if got := len(f.All(time.Time{})) > 0; got != c.foreign {
			t.Errorf("%q with %.200s: counted %v", c.agent, c.index.data, got)
		}
	}
}

// The tag by which one organisation asked is not told to another.
func TestWrongPlatformTellsNoForeignTag(t *testing.T) {
	f := NewFailures(nil)
	s := tokenSite(t, func(o *Options) { o.Failures = f })
	d := s.fake.put("library/app", oci.Manifest, indexOf("linux/mips64le"))
	s.fake.tags["library/app:secret"] = d
	acme := basicHeader("acme", "acme-canary-secret")
	s.get("/v2/docker.io/app/manifests/secret", acme...).wants(t, http.StatusOK)
	globex := basicHeader("globex", "globex-canary-secret")
	s.get("/v2/docker.io/app/manifests/"+string(d), globex...).wants(t, http.StatusOK)
	s.server.Close()
	if all := f.Of("globex", time.Time{}); len(all) != 1 || all[0].Reference != string(d) || strings.Contains(all[0].Message, "secret") {
		t.Errorf("%+v", all)
	}
}

// An index is read once, however often it is pulled.
func TestIndexIsReadOnce(t *testing.T) {
	s, _, _ := keeping(t, nil)
	th := indexOf("linux/mips64le")
	d := s.fake.put("acme/app", oci.Manifest, th)
	get := func() { s.get("/v2/ghcr.io/acme/app/manifests/"+string(d)).wants(t, http.StatusOK) }
	get()
	note, ok := s.metrics.indexes.Get(indexKey{"acme", "ghcr.io", "acme/app", d})
	if !ok {
		t.Fatal("it was not noted")
	}
	read := note.platforms.Load()
	get()
	if note.platforms.Load() != read {
		t.Error("it was read again")
	}
	for i := range 2 * maxIndexes {
		s.metrics.note(indexKey{repository: fmt.Sprint(i)})
	}
	if n := len(s.metrics.indexes.All()); n != maxIndexes {
		t.Errorf("%d indexes are remembered", n)
	}
}

// A User-Agent may hold anything; what is taken from it is a platform.
func FuzzClientPlatform(f *testing.F) {
	f.Add(fmt.Sprintf(dockerOn, "arm64"))
	f.Add("docker/1 os/ arch/")
	f.Add("docker/1 arch/x os/\x1b[0m UpstreamClient( os/y")
	f.Fuzz(func(t *testing.T, agent string) {
		p := clientPlatform(agent)
		if again, ok := oci.ParsePlatform(p.String()); !ok || again != p {
			t.Errorf("%q is %q", agent, p)
		}
	})
}
