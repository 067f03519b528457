package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"berth/internal/admin"
	"berth/internal/hung"
	"berth/internal/ocitest"
)

// deadDisk lets files hang, as those of a server that is gone do: no look at them ends.
type deadDisk struct {
	mu    sync.Mutex
	files []string // by the ends of their names
	back  chan struct{}
}

func newDeadDisk(t *testing.T) (*deadDisk, *hung.Table) {
	t.Helper()
	d := &deadDisk{back: make(chan struct{})}
	t.Cleanup(d.recover)
	return d, &hung.Table{Fault: d.wait}
}

func (d *deadDisk) wait(what string) {
	d.mu.Lock()
	back, hangs := d.back, false
	for _, end := range d.files {
		hangs = hangs || strings.HasSuffix(what, end)
	}
	d.mu.Unlock()
	if hangs {
		<-back
	}
}

func (d *deadDisk) hang(files ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = append(d.files, files...)
}

func (d *deadDisk) recover() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = nil
	close(d.back)
	d.back = make(chan struct{})
}

// A drop-in and a secret that hang are named, and stop nothing else: what others have
// changes as always, what they stand for goes on as it was, and all is well when they
// are back.
func TestHung_DropIn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	disk, table := newDeadDisk(t)
	s.hung = table
	n := s.serve()
	acme, globex := s.caller(n, "acme"), s.caller(n, "globex")
	acme.mustPull(app, s.image, "")

	disk.hang("organisations.d/globex.yaml", "organisations.d/acme/token")
	s.dropIn2("initech")
	s.caller(n, "initech").await(manifest, http.StatusOK)
	n.await("it is named", func() bool {
		status := s.command("status").out
		return strings.Contains(status, "organisations.d/globex.yaml does not answer for ") && strings.Contains(status, "organisations.d/acme/token does not answer for ")
	})
	globex.mustPull(app, s.image, "")
	acme.mustPull(app, s.image, "")
	s.remove("organisations.d/initech.yaml")
	s.caller(n, "initech").await("/v2/", http.StatusUnauthorized)
	r := s.reload(exitFailed)
	wants(t, r, "globex", admin.Kept, "", "globex.yaml does not answer for ")
	if r.UnusableSecrets != 1 || !strings.Contains(strings.Join(r.Warnings, " "), `account "ci" of organisation acme for ghcr.io: `) {
		t.Errorf("%+v", r)
	}
	globex.mustPull(app, s.image, "")
	acme.mustPull(app, s.image, "")

	disk.recover()
	s.remove("organisations.d/globex.yaml")
	globex.await("/v2/", http.StatusUnauthorized)
	n.await("nothing hangs", func() bool { return !strings.Contains(s.command("status").out, "does not answer") })
	s.reload(exitOK)
}

// Whichever file or folder hangs while everything is read again, the answer comes, and
// says so, and the node goes on as it was.
func TestHung_Reload(t *testing.T) {
	t.Parallel()
	for what, file := range map[string]string{"the main file": "/berth.yaml", "the folder of drop-ins": "/organisations.d"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			disk, table := newDeadDisk(t)
			s.hung = table
			n := s.serve()
			disk.hang(file)
			r := s.reload(exitFailed)
			if r.Main.State != admin.Kept || !strings.Contains(strings.Join(r.Main.Errors, " "), file+" does not answer for ") {
				t.Errorf("%+v", r.Main)
			}
			s.caller(n, "acme").mustPull(app, s.image, "")
			disk.recover()
			n.await("it is read again", func() bool { return s.command("reload").code == exitOK })
		})
	}
}

// A ca_file that hangs is what it was: others' changes do not wait for it.
func TestHung_CAFile(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.put("ca.pem", string(ocitest.New(t, ocitest.Options{TLS: true}).CertPEM()))
	s.save(strings.Replace(s.read("berth.yaml"), "endpoint:", fmt.Sprintf("ca_file: %q, endpoint:", s.path("ca.pem")), 1))
	disk, table := newDeadDisk(t)
	s.hung = table
	n := s.serve()
	disk.hang("/ca.pem")
	s.dropIn2("initech")
	s.caller(n, "initech").await("/v2/", http.StatusOK)
	s.reload(exitOK)
	s.caller(n, "acme").mustPull(app, s.image, "")
	if got := s.command("status").out; !strings.Contains(got, "/ca.pem does not answer for ") {
		t.Error(got)
	}
}

// A credential helper that hangs holds up its own account alone: neither the status nor
// what others have waits for it, while a reload does so for a moment.
func TestHung_Helper(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	bin := t.TempDir()
	pipe := filepath.Join(bin, "answer")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\ntouch %s/asked\nread answer < %s\necho \"$answer\"\n", bin, pipe)
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-slow"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s.main(fmt.Sprintf("helpers: [slow]\norganisations: {initrode: {tokens: [{name: x, sha256: %x}], credentials: [{name: h, registry: ghcr.io, helper: {name: slow}}]}}",
		hashText(s.token("initrode"))))
	n := s.run("PATH=" + bin + ":" + os.Getenv("PATH"))
	n.await("it is asked", func() bool { _, err := os.Stat(filepath.Join(bin, "asked")); return err == nil })
	s.dropIn2("initech")
	meanwhile := false
	for try := 0; try < 5 && !meanwhile; try++ { // a busy machine may take longer than the reload waits
		reloaded := make(chan said, 1)
		go func() { reloaded <- s.command("reload") }()
		n.await("it is read again", func() bool { return n.said("INFO", "the configuration was read again") == try })
		s.caller(n, "initech").await(manifest, http.StatusOK)
		s.caller(n, "acme").mustPull(app, s.image, "")
		if got := s.command("status"); got.code != exitOK {
			t.Error(got)
		}
		meanwhile = len(reloaded) == 0
		if got := <-reloaded; !strings.Contains(got.out+got.err, "initrode") {
			t.Errorf("the reload does not say what it waited for: %+v", got)
		}
	}
	if !meanwhile {
		t.Error("all waits for the helper")
	}
	// Whoever needs it is told after a while.
	if a := s.caller(n, "initrode").get(manifest); a.status != http.StatusServiceUnavailable {
		t.Error(a)
	}
}
