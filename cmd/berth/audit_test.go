package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"berth/internal/audit"
	"berth/internal/ocitest"
)

// auditLines are the lines of a file. Those that are no JSON are counted as torn.
func auditLines(t *testing.T, file string) (all []audit.Entry, torn int) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e audit.Entry
		if json.Unmarshal([]byte(line), &e) != nil {
			torn++
			continue
		}
		all = append(all, e)
	}
	return all, torn
}

// attempts is what clients know of their pulls: whether each was answered whole.
type attempts struct {
	mu   sync.Mutex
	done map[string]bool // by tag
}

// A thousand pulls by eight clients, and ten kills among them: each pull that a client
// got is in the audit exactly once, and each that was cut off at most once.
func TestAudit_KilledUnderLoad(t *testing.T) {
	t.Parallel()
	const pulls, kills, clients = 1000, 10, 8
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{2000}})
	for i := range pulls {
		hub.SetTag("library/app", fmt.Sprint("t", i), image.Digest)
	}
	h.registry("docker.io", hub)
	h.listeners = h.listeners[openDoor:]
	h.audit = filepath.Join(t.TempDir(), "audit.jsonl")
	made := attempts{done: map[string]bool{}}
	var next, answered atomic.Int64
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range kills + 1 {
		n := h.build()
		c := h.client(n.doors[0])
		var all sync.WaitGroup
		enough := make(chan struct{})
		until := answered.Load() + 20 + random.Int64N(60)
		once := sync.OnceFunc(func() { close(enough) })
		for range clients {
			all.Go(func() {
				for {
					i := next.Add(1) - 1
					if i >= pulls {
						break
					}
					tag := fmt.Sprint("t", i)
					a := c.get("/v2/app/manifests/" + tag)
					whole := a.err == nil && a.status == http.StatusOK
					made.mu.Lock()
					made.done[tag] = whole
					made.mu.Unlock()
					if !whole {
						return // it is dead
					}
					if answered.Add(1) >= until && round < kills {
						once()
					}
				}
				once() // there are no more
			})
		}
		<-enough
		if round < kills {
			n.kill()
		}
		all.Wait()
		n.stop()
	}
	lines, torn := auditLines(t, h.audit)
	count := map[string]int{}
	for _, e := range lines {
		_, tag, _ := strings.Cut(e.Image, ":")
		count[tag]++
		if e.Verdict == audit.Allowed && (e.Digest != string(image.Digest) || e.Bytes == 0) {
			t.Errorf("%+v", e)
		}
	}
	cut := 0
	for i := range pulls {
		tag := fmt.Sprint("t", i)
		whole, tried := made.done[tag]
		switch {
		case !tried, whole && count[tag] != 1, count[tag] > 1:
			t.Errorf("%s (tried: %t, answered: %t) has %d lines", tag, tried, whole, count[tag])
		case !whole:
			cut++
		}
	}
	if torn > kills || cut < kills || cut > kills*clients {
		t.Errorf("%d lines are torn, %d pulls were cut off", torn, cut)
	}
	t.Logf("%d lines, %d torn, %d of %d pulls were cut off", len(lines), torn, cut, pulls)
}

// A full disk under the audit fails no pull, and is counted; once there is room again,
// a reload goes on.
func TestAudit_FullDisk(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{2000}})
	h.registry("docker.io", hub)
	link := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	h.audit = link
	n := h.build()
	for range 5 {
		h.nobody(n).mustPull("app", image, "")
	}
	lost := n.sample("berth_audit_errors_total")
	if lost < 10 {
		t.Errorf("%v lines are lost", lost)
	}
	n.await("it is told", func() bool { return n.said("ERROR", "lines of the audit cannot be written") == 1 })
	room := filepath.Join(filepath.Dir(link), "room")
	if err := os.Symlink(room, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	n.hangUp(t, 1)
	h.nobody(n).mustPull("app", image, "")
	if lines, torn := auditLines(t, room); len(lines) < 2 || torn > 0 || n.sample("berth_audit_errors_total") != lost {
		t.Errorf("%d lines, %d torn, %v lost", len(lines), torn, n.sample("berth_audit_errors_total"))
	}
	n.await("it is told", func() bool { return n.said("INFO", "lines of the audit are written again") == 1 })
}

// hangUp sends SIGHUP, and waits until it was obeyed for the nth time.
func (n *running) hangUp(t *testing.T, nth int) {
	t.Helper()
	if err := n.process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	n.await("the configuration is read", func() bool { return n.said("INFO", "the configuration was read again") == nth })
}

// SIGHUP ends a rotation, also when the configuration has gone bad meanwhile; and the
// key is taken over by a reload.
func TestAudit_Rotation(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{2000}})
	h.registry("docker.io", hub)
	dir := t.TempDir()
	h.audit = filepath.Join(dir, "audit.jsonl")
	n := h.build()
	get := func() {
		t.Helper()
		if a := h.nobody(n).get("/v2/app/manifests/" + string(image.Digest)); a.status != http.StatusOK {
			t.Fatal(a)
		}
	}
	wants := func(name string, lines int) {
		t.Helper()
		if got, torn := auditLines(t, filepath.Join(dir, name)); len(got) != lines || torn > 0 {
			t.Errorf("%s has %d lines, want %d", name, len(got), lines)
		}
	}
	rotate := func(to string) {
		t.Helper()
		if err := os.Rename(h.audit, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	get()
	rotate("1")
	n.hangUp(t, 1)
	get()
	get()
	rotate("2")
	h.save("listenrs: []\n")
	n.hangUp(t, 2)
	get()
	wants("1", 1)
	wants("2", 2)
	wants("audit.jsonl", 1)
	// Back, and to another file.
	other := filepath.Join(dir, "other.jsonl")
	h.audit = other
	h.config()
	n.hangUp(t, 3)
	get()
	h.audit = ""
	h.config()
	n.hangUp(t, 4)
	get()
	wants("audit.jsonl", 1)
	wants("other.jsonl", 1)
	if lost := n.sample("berth_audit_errors_total"); lost != 0 {
		t.Errorf("%v are lost", lost)
	}
}

// On standard output there are lines of the audit and nothing else, and whoever reads
// them may go.
func TestAudit_StandardOutput(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{2000}})
	h.registry("docker.io", hub)
	h.audit = "-"
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program(t, berthProgram))
	cmd.Stdout = writer
	n := h.start(cmd)
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	h.nobody(n).mustPull("app", image, "")
	lines := json.NewDecoder(reader)
	for i := range 2 { // HEAD by tag, and GET
		var e audit.Entry
		if err := lines.Decode(&e); err != nil || e.Verdict != audit.Allowed {
			t.Errorf("line %d: %+v, %v", i, e, err)
		}
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	// A program that another test is starting just now may have the reader, too, for a
	// moment.
	for ctx := soon(t); n.sample("berth_audit_errors_total") < 3; {
		h.nobody(n).mustPull("app", image, "")
		if ctx.Err() != nil {
			t.Fatal("no line is lost")
		}
	}
}

// What the audit says of pulls that go well, of those that are refused, and of those
// that trouble of the registry or the disk changes.
func TestAudit_Verdicts(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ghcr := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true, Refusal: ocitest.RefuseAtToken})
	image := ghcr.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{2000}})
	ghcr.AddUser("acme-bot", "secret", "acme/**")
	h.registry("ghcr.io", ghcr)
	h.tenant("acme")
	h.tenant("globex")
	h.credential("acme", "ci", "ghcr.io", "acme-bot", "secret")
	h.cache["tag_ttl"], h.cache["access_ttl"] = "0s", "1s"
	h.audit = filepath.Join(t.TempDir(), "audit.jsonl")
	n := h.serve()
	seen := 0
	wants := func(what string, verdict audit.Verdict, organisation, class string) {
		t.Helper()
		lines, _ := auditLines(t, h.audit)
		if len(lines) != seen+1 {
			t.Fatalf("%s has %d lines", what, len(lines)-seen)
		}
		seen++
		if e := lines[len(lines)-1]; e.Verdict != verdict || e.Organisation != organisation || e.Class != class {
			t.Errorf("%s: %+v", what, e)
		}
	}
	const path = "/v2/ghcr.io/acme/app/manifests/1"
	h.as(n, "acme+ci").get(path)
	wants("a cold pull", audit.Allowed, "acme", "")
	h.as(n, "acme+ci").get(path)
	wants("a warm pull", audit.Allowed, "acme", "")
	h.as(n, "globex").get(path)
	wants("a stranger's pull", audit.Refused, "globex", "no_credential")
	h.as(n, "globex").get("/v2/ghcr.io/acme/app/blobs/" + string(image.Platforms[0].Layers[0]))
	wants("a stranger's blob", audit.Refused, "globex", "no_credential")
	h.as(n, "acme+ci").get("/v2/ghcr.io/acme/app/blobs/" + string(image.Platforms[0].Layers[0]))
	wrong := h.as(n, "acme")
	wrong.password = "wrong"
	wrong.get("/v2/")
	wants("a wrong token", audit.Refused, "", "caller")
	h.as(n, "acme+ci").get("/v2/ghcr.io/acme/app/manifests/none")
	wants("a tag that is not there", audit.Failed, "acme", "not_found")
	ghcr.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusBadGateway))
	h.as(n, "acme+ci").get(path)
	wants("a pull while the registry is in trouble", audit.Stale, "acme", "")
	n.stop()

	h.cacheAt = filepath.Join(h.dir, "no-folder")
	h.write(h.cacheAt, "")
	hub := ocitest.New(t, ocitest.Options{})
	hub.AddImage("library/app", "1", ocitest.Image{Layers: []int64{2000}})
	h.registry("docker.io", hub)
	n = h.serve()
	h.nobody(n).get("/v2/app/manifests/1")
	wants("a pull past the disk", audit.Bypassed, "", "")
}
