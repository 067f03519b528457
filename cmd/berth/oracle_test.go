package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// alike wants what is kept and what is not to be refused to a stranger by one answer.
func alike(t *testing.T, what string, kept, other answer) {
	t.Helper()
	text := func(a answer) string {
		for _, d := range regexp.MustCompile("sha256:[0-9a-f]+").FindAllString(a.message(), -1) {
			return strings.ReplaceAll(a.message(), d, "DIGEST")
		}
		return a.message()
	}
	cut := func(s string) string { return regexp.MustCompile(` \[[a-z2-7]{5}\]$`).ReplaceAllString(s, "") }
	if kept.status != http.StatusForbidden || kept.status != other.status || cut(text(kept)) != cut(text(other)) {
		t.Errorf("%s: what is kept: %s\nwhat is not: %s", what, kept, other)
	}
}

// Whoever is at his own limit learns no more about what is kept than else.
func TestOracle_AtOnesLimits(t *testing.T) {
	t.Parallel()
	t.Run("downloads", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.registry.SetRights("globex-bot", "globex/**") // nothing of acme's
		s.dropIn("globex", "limits: {fills: 1}")
		own := s.registry.AddNoise("globex/own", 7, 8<<20)
		other := s.registry.AddNoise("acme/app", 8, 30000) // never pulled here
		n := s.serve()
		globex := s.caller(n, "globex")
		s.caller(n, "acme").mustPull(app, s.image, "")
		gate := s.registry.Hold(ocitest.Match{Kind: ocitest.Blob, Digest: own})
		var wg sync.WaitGroup
		wg.Go(func() { globex.get("/v2/ghcr.io/globex/own/blobs/" + own.String()) })
		if err := gate.Wait(soon(t), 1); err != nil {
			t.Fatal(err)
		}
		// Whoever has a right waits for its turn, and is not there yet when others have
		// their answers.
		waited := make(chan struct{})
		second := s.registry.AddNoise("globex/own", 9, 8<<20)
		wg.Go(func() { defer close(waited); globex.get("/v2/ghcr.io/globex/own/blobs/" + second.String()) })
		for s.registry.Count(ocitest.Match{Kind: ocitest.Blob, Digest: second}) == 0 {
			time.Sleep(time.Millisecond)
		}
		blob := "/v2/" + app + "/blobs/"
		alike(t, "a blob", globex.get(blob+s.image.Platforms[0].Layers[0].String()), globex.get(blob+other.String()))
		select {
		case <-waited:
			t.Error("a stranger waits for what is not kept")
		default:
		}
		gate.Open()
		wg.Wait()
	})
	t.Run("pulls of an account", func(t *testing.T) {
		t.Parallel()
		hub, globex, alikeAt := newLimitedHub(t, ocitest.Options{Private: true, PullLimit: 4}, "acme", "globex")
		for i := range 6 {
			own := hub.AddImage("globex/own", fmt.Sprint(i), ocitest.Image{Layers: []int64{900}, Seed: uint64(100 + i)})
			globex.get("/v2/globex/own/manifests/" + own.Digest.String())
		}
		alikeAt()
	})
	t.Run("share of the node's pulls", func(t *testing.T) {
		t.Parallel()
		hub, globex, alikeAt := newLimitedHub(t, ocitest.Options{PullLimit: 20}, "acme")
		for i := range 6 {
			public := hub.AddImage("library/app", fmt.Sprint(i), ocitest.Image{Layers: []int64{900}, Seed: uint64(100 + i)})
			globex.get("/v2/library/app/manifests/" + public.Digest.String())
		}
		alikeAt()
	})
}

// newLimitedHub is a docker.io with a private image that acme has pulled and one that nobody
// has, where these organisations have accounts. alikeAt holds globex's answers for the two
// against each other.
func newLimitedHub(t *testing.T, o ocitest.Options, organisations ...string) (hub *ocitest.Registry, globex *client, alikeAt func()) {
	t.Helper()
	s := newStage(t)
	o.Auth, o.Refusal, o.Now, o.TokenTTL = ocitest.Bearer, ocitest.RefuseScope, s.clock.now, 24*time.Hour
	hub = ocitest.New(t, o)
	kept := hub.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{1000}})
	other := hub.AddImage("acme/app", "2", ocitest.Image{Layers: []int64{1001}, Seed: 4})
	hub.SetPrivate("acme/app", true)
	for _, name := range organisations {
		hub.AddUser(name+"-bot", name+"-secret", name+"/**")
	}
	s.hub(hub, organisations...)
	n := s.serve()
	globex = s.caller(n, "globex")
	s.caller(n, "acme").mustPull("acme/app", kept, "")
	get := func(d oci.Digest) answer { return globex.get("/v2/acme/app/manifests/" + d.String()) }
	return hub, globex, func() {
		t.Helper()
		alike(t, "a manifest", get(kept.Digest), get(other.Digest))
	}
}

// hub makes a registry docker.io, where these organisations have accounts.
func (s *stage) hub(hub *ocitest.Registry, organisations ...string) {
	s.t.Helper()
	s.save(strings.Replace(s.read("berth.yaml"), "registries:\n", "registries:\n  docker.io: {endpoint: \""+hub.URL()+"\"}\n", 1))
	for _, o := range organisations {
		s.put("organisations.d/"+o+".yaml", fmt.Sprintf("tokens: [{name: only, sha256: %x}]\ncredentials: [{name: ci, registry: docker.io, username: %s-bot, password_file: %s/token}]\n", sha256.Sum256([]byte(s.token(o))), o, o))
	}
}

// The metrics tell a stranger's request for what is kept from one for what is not by
// nothing.
func TestOracle_Metrics(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.registry.SetRights("globex-bot", "globex/**")
	other := s.registry.AddImage("acme/app", "2", ocitest.Image{Layers: []int64{30_000}, Seed: 8})
	n := s.serve()
	globex := s.caller(n, "globex")
	s.caller(n, "acme").mustPull(app, s.image, "")
	ask := func(path string) []string {
		counters := func() (all []string) {
			for line := range strings.Lines(n.metrics()) {
				if strings.HasPrefix(line, "berth_") && strings.Contains(line, "_total") {
					all = append(all, line)
				}
			}
			return all
		}
		globex.get(path) // what is remembered of the one before, and tokens, are there
		s.clock.forward(31 * time.Second)
		before := counters()
		globex.get(path)
		var changed []string
		for _, line := range counters() {
			if name, _, _ := strings.Cut(line, " "); !slices.Contains(before, line) {
				changed = append(changed, name)
			}
		}
		return changed
	}
	for kind, d := range map[string][2]oci.Digest{
		"manifests": {s.image.Digest, other.Digest},
		"blobs":     {s.image.Platforms[0].Layers[0], other.Platforms[0].Layers[0]},
	} {
		kept, not := ask("/v2/"+app+"/"+kind+"/"+d[0].String()), ask("/v2/"+app+"/"+kind+"/"+d[1].String())
		if len(kept) == 0 || !slices.Equal(kept, not) {
			t.Errorf("%s: what is kept changes\n%s\nwhat is not\n%s", kind, strings.Join(kept, "\n"), strings.Join(not, "\n"))
		}
	}
}
