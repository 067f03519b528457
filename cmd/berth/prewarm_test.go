package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"berth/internal/admin"
	"berth/internal/ocitest"
)

// What was prewarmed is there for a pull, with a right of its own to be proven by
// nobody else; and the list says so.
func TestPrewarmAndList(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	if got := s.command("list"); got.code != exitOK || got.out != "no images are kept\n" {
		t.Errorf("%+v", got)
	}
	name := "ghcr.io/acme/app:1"
	if got := s.command("prewarm", name, "--org", "acme"); got != (said{}) {
		t.Fatalf("in a pipe: %+v", got)
	}
	published(t, s.cacheDir())
	s.registry.Forget()
	s.caller(n, "acme").mustPull(app, s.image, "")
	must(t, s.registry, "the pull after it", cost{})

	got := s.command("prewarm", "localhost:5000/acme/"+name, "--org", "acme", "--json")
	var end prewarmed
	if err := json.Unmarshal([]byte(got.out), &end); err != nil || got.code != exitOK || !end.Done || end.Fetched != 0 || end.Bytes != end.Total || end.Total < 30_000 {
		t.Errorf("again: %v, %+v", err, got)
	}
	must(t, s.registry, "prewarming again", cost{})

	got = s.command("list", "--json")
	var list admin.Images
	if err := json.Unmarshal([]byte(got.out), &list); err != nil || len(list.Images) != 1 {
		t.Fatalf("%v, %+v", err, got)
	}
	i := list.Images[0]
	if i.Registry != "ghcr.io" || i.Repository != "acme/app" || !slices.Equal(i.Tags, []string{"1"}) || i.Digest != s.image.Digest.String() || i.Bytes != i.TotalBytes || i.Bytes != end.Total || i.LastUse.IsZero() {
		t.Errorf("%+v", i)
	}
	if got := s.command("list"); !strings.Contains(got.out, "ghcr.io/acme/app:1  -") || !strings.Contains(got.out, "30.") {
		t.Errorf("%+v", got)
	}
}

// Images of a place that no registry is reached at any more are called by that
// place, as people write it.
func TestListOfAFormerEndpoint(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	published(t, s.cacheDir())
	n.stop()
	s.save(strings.Replace(s.read("berth.yaml"), s.registry.URL(), ocitest.New(t, ocitest.Options{}).URL(), 1))
	s.serve()

	host := strings.TrimPrefix(s.registry.URL(), "http://")
	if got := s.command("list"); !strings.Contains(got.out, host+"/acme/app:1 (from before: no registry of the configuration)  -") {
		t.Errorf("%s is not in %+v", host, got)
	}
	var list admin.Images
	got := s.command("list", "--json")
	if err := json.Unmarshal([]byte(got.out), &list); err != nil || len(list.Images) != 1 || list.Images[0].Registry != host || !list.Images[0].Unconfigured {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestPrewarmRefused(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.serve()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"ghcr.io/acme/app:1"}, exitFailed, "ghcr.io/acme/app:1: "},
		{[]string{"ghcr.io/acme/app:2", "ghcr.io/acme/app:1", "--org", "acme"}, exitFailed, "no such tag"},
		{[]string{"ghcr.io/acme/app:1", "--org", "initech"}, exitFailed, `there is no organisation "initech"`},
		{[]string{"ghcr.io/acme/app:1", "--org", "acme", "--account", "other"}, exitFailed, "other"},
		{[]string{"ghcr.io/acme/app:1", "--org", "acme", "--platform", "x"}, exitFailed, "no platform"},
		{[]string{"x.example/app"}, exitFailed, "not configured"},
		{[]string{}, exitUsage, "arg"},
	} {
		got := s.command(append([]string{"prewarm"}, c.args...)...)
		if got.code != c.code || !strings.Contains(got.err, c.want) || got.out != "" {
			t.Errorf("%q: %+v", c.args, got)
		}
	}
	// The one that could be fetched was.
	published(t, s.cacheDir())
	if got := s.command("list"); !strings.Contains(got.out, "ghcr.io/acme/app:1") {
		t.Errorf("%+v", got)
	}
}

// Of an index only the wanted platform's image is fetched.
func TestPrewarmPlatform(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.registry.AddImage("acme/many", "1", ocitest.Image{Layers: []int64{5_000}, ForeignLayer: true, Platforms: []string{"linux/amd64", "linux/arm64"}})
	s.serve()
	if got := s.command("prewarm", "ghcr.io/acme/many:1", "--org", "acme", "--platform", "linux/arm64"); got != (said{}) {
		t.Fatalf("%+v", got)
	}
	published(t, s.cacheDir())
	got := s.command("list")
	if !strings.Contains(got.out, "ghcr.io/acme/many:1  linux/arm64") || strings.Contains(got.out, "amd64") {
		t.Errorf("%+v", got)
	}
	if got := s.command("prewarm", "ghcr.io/acme/many:1", "--org", "acme", "--platform", "linux/s390x"); got.code != exitFailed || !strings.Contains(got.err, "has no image for linux/s390x") {
		t.Errorf("%+v", got)
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	m := meter{to: &b, name: "nginx", on: true}
	m.show(admin.Progress{Bytes: 512, Total: 1024})
	m.show(admin.Progress{Bytes: 2048, Total: 1024, Done: true})
	m.end(admin.Progress{Bytes: 1024, Total: 1024, Fetched: 512}, nil)
	want := "\rnginx [###############...............] 512 B of 1.0 KiB\x1b[K\rnginx: 1.0 KiB, 512 B fetched\x1b[K\n"
	if b.String() != want {
		t.Errorf("%q", b.String())
	}
	if isTerminal(&b) {
		t.Error("a buffer is a terminal")
	}
}
