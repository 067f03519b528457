package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/internal/admin"
	"berth/internal/ocitest"
	"berth/oci"
)

// What is unchanged goes on as it was: connections, tokens, proofs.
func TestReloadKeepsWhatHolds(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme := s.caller(n, "acme")
	acme.mustPull(app, s.image, "")
	s.registry.Forget()

	s.dropIn("globex", "limits: {requests: 7}")
	s.main("organisations: {initech: {}}")
	r := s.reload(exitOK)
	if !r.OK() || r.Main == nil || r.Main.State != admin.Applied || len(r.NeedsRestart)+len(r.Warnings) > 0 {
		t.Errorf("%+v", r)
	}
	acme.mustPull(app, s.image, "")
	must(t, s.registry, "a pull after a reload", cost{})
	s.clock.forward(10 * time.Minute)
	acme.mustPull(app, s.image, "")
	must(t, s.registry, "a later one, with the token from before", cost{head: 1})
}

// A registry that is reached in another way has a new line; the others' stay.
func TestReloadOfARegistry(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme := s.caller(n, "acme")
	acme.mustPull(app, s.image, "")

	moved := ocitest.New(t, ocitest.Options{})
	image := moved.AddImage("acme/new", "1", ocitest.Image{Layers: []int64{1000}})
	s.save(strings.Replace(s.read("berth.yaml"), s.registry.URL(), moved.URL(), 1))
	s.reload(exitOK)
	s.registry.Forget()
	acme.mustPull("ghcr.io/acme/new", image, "")
	if asked := s.registry.Requests(ocitest.Match{}); len(asked) > 0 {
		t.Errorf("the old place was asked: %v", asked)
	}
	acme.mustRefuse(manifest, http.StatusNotFound, oci.CodeNameUnknown)
}

// A download that is under way ends as it began, whatever the new configuration
// says; what comes after it is refused.
func TestReloadDisturbsNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	d := s.registry.AddNoise("acme/app", 5, 8<<20)
	n := s.serve()
	acme := s.caller(n, "acme")
	gate := s.registry.Hold(ocitest.Match{Kind: ocitest.Blob, Digest: d})
	path := "/v2/" + app + "/blobs/" + d.String()

	var wg sync.WaitGroup
	wg.Go(func() {
		p := acme.part(path)
		if _, want, err := hashOf(io.NewSectionReader(ocitest.Noise(5, 8<<20), 0, 8<<20)); err != nil || p.err != nil || p.status != http.StatusOK || p.hash != want {
			t.Errorf("the download that was under way: %+v", p)
		}
	})
	if err := s.registry.WaitInFlight(soon(t), ocitest.Match{Kind: ocitest.Blob}, 1); err != nil {
		t.Fatal(err)
	}
	s.remove("organisations.d/acme.yaml")
	s.save(strings.Replace(s.read("berth.yaml"), s.registry.URL(), "https://ghcr.io", 1))
	r := s.reload(exitOK)
	wants(t, r, "acme", admin.Removed, "", "")
	acme.mustRefuse(path, http.StatusUnauthorized, oci.CodeUnauthorized)
	gate.Open()
	wg.Wait()
}

// A bad main file leaves the old one in force, and says where it is bad. Drop-ins
// are read all the same.
func TestReloadOfABadFile(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme := s.caller(n, "acme")
	for _, bad := range []struct{ text, problem string }{
		{"", "berth.yaml: the file is empty"},
		{"listeners: [\n", "berth.yaml:2:"},
		{"listener: []\n", `berth.yaml:1:1: unknown key "listener"`},
		{"listeners: []\n", "berth.yaml:1:1: listeners: there is no listener"},
		{strings.Replace(s.read("berth.yaml"), "endpoint:", "ca_file: /nowhere.pem, endpoint:", 1), "berth.yaml: registry ghcr.io: ca_file: open /nowhere.pem"},
	} {
		hash := s.put("berth.yaml", bad.text)
		globex := s.dropIn("globex", "# "+bad.problem)
		r := s.reload(exitFailed)
		if r.Main == nil || r.Main.State != admin.Kept || r.Main.SHA256 != hash || !strings.Contains(strings.Join(r.Main.Errors, "\n"), bad.problem) {
			t.Errorf("%q: %+v", bad.text, r.Main)
		}
		wants(t, r, "globex", admin.Applied, globex, "")
		acme.mustPull(app, s.image, "")
		s.metric(n, "berth_config_last_reload_successful", 0)
		if !strings.Contains(n.log.String(), "the old one stays") {
			t.Errorf("the log says nothing:\n%s", n.log)
		}
	}
	if got := s.command("reload", "--socket", s.path("admin.sock")); got.code != exitFailed || !strings.Contains(got.out, "the file is bad, what was in force before stays") || !strings.Contains(got.out, "ca_file") {
		t.Errorf("for people: %+v", got)
	}
	since := n.sample("berth_config_last_reload_success_timestamp_seconds")
	s.clock.forward(time.Hour)
	s.main("")
	s.reload(exitOK)
	s.metric(n, "berth_config_last_reload_successful", 1)
	if now := n.sample("berth_config_last_reload_success_timestamp_seconds"); now < since+3600 {
		t.Errorf("the last success is of %f, before %f", now, since)
	}
	if got := s.command("reload"); got.code != exitOK || !strings.Contains(got.out, "berth.yaml: in force (sha256 ") {
		t.Errorf("for people: %+v", got)
	}
}

// What a control plane asks after it has written: whose file is in force, by hash.
func TestReloadOfDropIns(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	acme.mustPull(app, s.image, "")
	globex.mustPull(app, s.image, "")

	bad := s.put("organisations.d/acme.yaml", "tokens: [{name: only}]\n")
	bad2 := s.put("organisations.d/initech.yaml", "token: []\n")
	hash := s.dropIn("globex", "limits: {requests: 9}")
	r := s.reload(exitFailed)
	wants(t, r, "acme", admin.Kept, bad, "acme.yaml:1:10: tokens[0].sha256: the hash is missing")
	wants(t, r, "initech", admin.Failed, bad2, `initech.yaml:1:1: unknown key "token"`)
	wants(t, r, "globex", admin.Applied, hash, "")
	if r.Main.State != admin.Applied {
		t.Errorf("%+v", r.Main)
	}
	acme.mustPull(app, s.image, "")
	s.caller(n, "initech").mustRefuse(manifest, http.StatusServiceUnavailable, oci.CodeUnknown)
	s.metric(n, `berth_organisation_config_ok{organisation="acme"}`, 0)
	s.metric(n, `berth_organisation_config_ok{organisation="initech"}`, 0)
	s.metric(n, `berth_organisation_config_ok{organisation="globex"}`, 1)

	good := s.dropIn("acme")
	s.remove("organisations.d/initech.yaml")
	s.remove("organisations.d/globex.yaml")
	r = s.reload(exitOK)
	wants(t, r, "acme", admin.Applied, good, "")
	globex.mustRefuse(manifest, http.StatusUnauthorized, oci.CodeUnauthorized)
	s.caller(n, "initech").mustRefuse(manifest, http.StatusUnauthorized, oci.CodeUnauthorized)
	s.metric(n, `berth_organisation_config_ok{organisation="acme"}`, 1)
	s.metric(n, `berth_organisation_config_ok{organisation="globex"}`, -1)
	s.metric(n, `berth_credential_ok{account="ci",organisation="globex",registry="ghcr.io"}`, -1)
	s.metric(n, `berth_credential_ok{account="ci",organisation="acme",registry="ghcr.io"}`, 1)
}

// A drop-in that is bad at the start puts out its own organisation only, also
// when it is the program and not the configuration that finds it bad.
func TestBadDropInAtStart(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.put("organisations.d/odd.yaml", "listener: {}\n")
	s.put("organisations.d/weak.yaml", fmt.Sprintf("tokens: [{name: only, sha256: %x}]\n", sha256.Sum256([]byte("test\n"))))
	s.save(s.read("berth.yaml") + "organisations: {main: {}}\n")
	s.save(strings.Replace(s.read("berth.yaml"), "callers: open}", "callers: open, organisation: odd}", 1))
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	for _, name := range []string{"odd", "weak", "unknown"} { // whoever cannot show a token is not told which
		a := s.caller(n, name).mustRefuse(manifest, http.StatusServiceUnavailable, oci.CodeUnknown)
		if a.header.Get("Retry-After") == "" || !strings.Contains(a.message(), "configuration on this node cannot be read") || strings.Contains(a.message(), "organisation "+name) {
			t.Errorf("%s (%v)", a, a.header)
		}
	}
	door := s.client(n.doors[openDoor])
	door.mustRefuse("/v2/", http.StatusServiceUnavailable, oci.CodeUnknown)
	door.mustRefuse(manifest, http.StatusServiceUnavailable, oci.CodeUnknown)
	r := s.reload(exitFailed)
	wants(t, r, "weak", admin.Failed, fmt.Sprintf("%x", sha256.Sum256([]byte(s.read("organisations.d/weak.yaml")))), `sha256 of "test"`)

	// Once it is good, it is in.
	s.dropIn2("odd")
	s.reload(exitFailed) // weak still is
	s.caller(n, "odd").mustPull(app, s.image, "")
	door.mustPull(app, s.image, "")
}

// A good organisation that turns into one that only the program finds bad goes
// on as it was.
func TestVettedDropInKeepsTheOldOne(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	text := fmt.Sprintf("tokens: [{name: only, sha256: %x}]\n", sha256.Sum256([]byte("password\n")))
	hash := s.put("organisations.d/acme.yaml", text)
	r := s.reload(exitFailed)
	wants(t, r, "acme", admin.Kept, hash, `sha256 of "password"`)
	s.caller(n, "acme").mustPull(app, s.image, "")
}

// A drop-in with a password in it is a secret file, and held to the same rules.
func TestDropInsWithPasswords(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	text := fmt.Sprintf("tokens: [{name: only, sha256: %x}]\ncredentials: [{name: ci, registry: ghcr.io, username: acme-bot, password: acme-secret}]\n", sha256.Sum256([]byte(s.token("acme"))))
	hash := s.put("organisations.d/acme.yaml", text)
	chmod := func(mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(s.path("organisations.d/acme.yaml"), mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(0o644)
	n := s.serve()
	acme := s.caller(n, "acme")
	acme.mustRefuse("/v2/", http.StatusServiceUnavailable, oci.CodeUnknown)
	wants(t, s.reload(exitFailed), "acme", admin.Failed, hash, "acme.yaml has mode 0644, so others may use it: chmod 0640 it")
	if strings.Contains(n.log.String(), "acme-secret") {
		t.Error("the password is in the log")
	}
	chmod(0o600) // seen without an order
	acme.await("/v2/", http.StatusOK)
	acme.mustPull(app, s.image, "")
	chmod(0o604)
	n.await("the new mode is told", func() bool { return strings.Contains(n.log.String(), "has mode 0604") })
	wants(t, s.reload(exitFailed), "acme", admin.Kept, hash, "has mode 0604")
	s.dropIn("globex", "# so that everything is put in force anew")
	s.reload(exitFailed)
	acme.mustPull(app, s.image, "")
}

func TestReloadNamesWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.save(strings.NewReplacer("max_size: 1GiB", "max_size: 2GiB", "format: json", "format: text", "level: debug", "level: error").Replace(s.read("berth.yaml")))
	for range 2 { // it is not forgotten by reading the file again
		r := s.reload(exitOK)
		if want := []string{"cache.max_size", "log.format"}; !slices.Equal(r.NeedsRestart, want) {
			t.Errorf("%v, want %v", r.NeedsRestart, want)
		}
	}
	if got := s.command("reload"); !strings.Contains(got.out, "needs a restart: cache.max_size\n") {
		t.Errorf("for people: %+v", got)
	}
	// The level does not need one.
	before := strings.Count(n.log.String(), "\n")
	s.caller(n, "acme").get("/v2/")
	s.command("status")
	if after := n.log.String(); strings.Count(after, "\n") != before {
		t.Errorf("logged although the level is error: %s", after)
	}
}

// An unreadable secret is told at once. The one before it serves for the moment that
// replacing a file may take, and somebody else's change does not end that.
func TestReloadSaysWhichSecretsAreBad(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme := s.caller(n, "acme")
	acme.mustPull(app, s.image, "")
	if err := os.Chmod(s.path("organisations.d/acme/token"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.dropIn("globex", "limits: {requests: 3}")
	r := s.reload(exitFailed)
	if w := r.Warnings; len(w) != 1 || !strings.Contains(w[0], `account "ci" of organisation acme`) || !strings.Contains(w[0], "mode 0644") {
		t.Errorf("warnings: %q", w)
	}
	s.registry.ExpireTokens()
	acme.mustPull(app, s.image, "")
	for _, said := range []string{"? the new secret of account ci of organisation acme for ghcr.io cannot be used, the one before it serves for the moment", "mode 0644, so others may use it: chmod 0640 it"} {
		if got := s.command("status"); !strings.Contains(got.out, said) {
			t.Errorf("%q is not in\n%s", said, got.out)
		}
	}
	if err := os.Chmod(s.path("organisations.d/acme/token"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.reload(exitOK)
}

// A changed secret is the one that counts when the command returns.
func TestReloadReadsSecrets(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme := s.caller(n, "acme")
	acme.mustPull(app, s.image, "")
	s.registry.SetPassword("acme-bot", "acme-secret-2")
	s.registry.ExpireTokens()
	s.put("organisations.d/acme/token", "acme-secret-2\n")
	s.reload(exitOK)
	s.registry.Forget()
	acme.mustPull(app, s.image, "")
	must(t, s.registry, "a pull with the new secret", cost{token: 1, head: 1})
}

func TestHangUpReloads(t *testing.T) {
	s := newStage(t)
	n := s.serve()
	s.caller(n, "initech").mustRefuse("/v2/", http.StatusUnauthorized, oci.CodeUnauthorized)
	s.main(fmt.Sprintf("organisations: {initech: {tokens: [{name: only, sha256: %x}]}}", sha256.Sum256([]byte(s.token("initech")))))
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.caller(n, "initech").await("/v2/", http.StatusOK)
}

// Requests of one organisation at its limit wait, and others do not.
func TestLimitOfRequests(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.dropIn("acme", "limits: {requests: 1}")
	n := s.serve()
	gate := s.registry.Hold(ocitest.Match{Kind: ocitest.Manifest, User: "acme-bot"})
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	var wg sync.WaitGroup
	answers := make(chan answer, 3)
	for range 3 {
		wg.Go(func() { answers <- acme.get(manifest) })
	}
	first := <-answers // one runs, one waits, one is too much
	if first.status != http.StatusServiceUnavailable || !strings.Contains(first.message(), "limits.requests") || first.header.Get("Retry-After") != "5" {
		t.Errorf("%s (%v)", first, first.header)
	}
	globex.mustPull(app, s.image, "")

	s.dropIn("acme", "limits: {requests: 50}")
	s.reload(exitOK)
	gate.Open()
	wg.Wait()
	acme.mustPull(app, s.image, "")
}

// 100 reloads, half of them of broken files, and not one failed pull.
func TestReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var pulls int
	var mu sync.Mutex
	for _, who := range []string{"acme", "globex"} {
		c := s.caller(n, who)
		wg.Go(func() {
			for ctx.Err() == nil {
				if p, err := c.pull(app, "1", ""); err != nil || p.digest != s.image.Digest {
					t.Errorf("%s: %v", who, err)
					return
				}
				mu.Lock()
				pulls++
				mu.Unlock()
			}
		})
	}
	for i := range 100 {
		switch i % 4 {
		case 0:
			s.main(fmt.Sprintf("organisations: {initech%d: {}}", i))
			s.reload(exitOK)
		case 1:
			s.save("listeners: [{address: nowhere}]\n")
			s.reload(exitFailed)
		case 2:
			s.main("")
			s.dropIn("acme", fmt.Sprintf("# %d", i))
			s.reload(exitOK)
		case 3:
			s.put("organisations.d/globex.yaml", "tokens: 1\n")
			s.reload(exitFailed)
			s.dropIn("globex", fmt.Sprintf("# %d", i))
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d pulls", pulls)
}
