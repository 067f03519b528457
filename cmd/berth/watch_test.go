package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/config"
	"berth/oci"
)

// sight is what a watcher's look saw last.
type sight struct {
	t    *testing.T
	seen chan string
}

// watching runs a watcher over a file's content until the test ends. It polls
// only if deaf: otherwise, events alone must do.
func watching(t *testing.T, deaf bool, file string, folder bool) *sight {
	t.Helper()
	s := &sight{t: t, seen: make(chan string, 1)}
	w := &watcher{
		paths: func() (files, folders []string) {
			if folder {
				return nil, []string{filepath.Dir(file)}
			}
			return []string{file}, nil
		},
		look: func() time.Duration {
			text, err := os.ReadFile(file)
			if err != nil {
				text = []byte("gone")
			}
			select {
			case <-s.seen: // only the last one counts
			default:
			}
			s.seen <- string(text)
			return 0
		},
		log: slog.New(slog.DiscardHandler), poll: time.Hour, deaf: deaf,
	}
	if deaf {
		w.poll = time.Millisecond
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return s
}

// sees waits until the watcher has seen want.
func (s *sight) sees(want string) {
	s.t.Helper()
	deadline := soon(s.t)
	got := ""
	for got != want {
		select {
		case got = <-s.seen:
		case <-deadline.Done():
			s.t.Fatalf("it never saw %q, but %q", want, got)
		}
	}
}

// do runs a shell's worth of file operations: "mkdir D", "write F TEXT",
// "rename A B", "link TARGET NAME", "remove F", "chmod F".
func do(t *testing.T, dir string, ops ...string) {
	t.Helper()
	for _, op := range ops {
		f := strings.Fields(op)
		at := func(i int) string { return filepath.Join(dir, f[i]) }
		var err error
		switch f[0] {
		case "mkdir":
			err = os.MkdirAll(at(1), 0o700)
		case "write":
			err = os.WriteFile(at(1), []byte(f[2]), 0o600)
		case "rename":
			err = os.Rename(at(1), at(2))
		case "link":
			err = os.Symlink(f[1], at(2))
		case "remove":
			err = os.RemoveAll(at(1))
		default:
			t.Fatalf("no operation %q", op)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever way a file gets new content, it is seen.
func TestWatching(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ before, change []string }{
		"written in place": {[]string{"mkdir d", "write d/f one"}, []string{"write d/f two"}},
		"renamed over":     {[]string{"mkdir d", "write d/f one"}, []string{"write new two", "rename new d/f"}},
		"made":             {[]string{"mkdir d"}, []string{"write d/f two"}},
		"removed and made": {[]string{"mkdir d", "write d/f one"}, []string{"remove d/f", "write d/f two"}},
		"a link, swapped": {
			[]string{"mkdir d", "mkdir e", "write e/1 one", "write e/2 two", "link ../e/1 d/f"},
			[]string{"link ../e/2 d/new", "rename d/new d/f"},
		},
		"a link, its target written": {[]string{"mkdir d", "mkdir e", "write e/1 one", "link ../e/1 d/f"}, []string{"write e/1 two"}},
		"a link to a link":           {[]string{"mkdir d", "mkdir e", "write e/2 two", "write e/1 one", "link 1 e/l", "link ../e/l d/f"}, []string{"link 2 e/new", "rename e/new e/l"}},
		"kubernetes": {
			[]string{"mkdir d/..1", "write d/..1/f one", "link ..1 d/..data", "link ..data/f d/f"},
			[]string{"mkdir d/..2", "write d/..2/f two", "link ..2 d/..new", "rename d/..new d/..data", "remove d/..1"},
		},
		"the folder is replaced":         {[]string{"mkdir d", "write d/f one"}, []string{"mkdir new", "write new/f two", "rename d old", "rename new d"}},
		"the folder is removed and made": {[]string{"mkdir d", "write d/f one"}, []string{"remove d", "mkdir d", "write d/f two"}},
		"the folder is a link, swapped":  {[]string{"mkdir 1", "mkdir 2", "write 1/f one", "write 2/f two", "link 1 d"}, []string{"link 2 new", "rename new d"}},
		"a folder above is made":         {nil, []string{"mkdir d", "write d/f two"}},
		"what a link leads to is made":   {[]string{"mkdir d", "link ../e/f d/f"}, []string{"mkdir e", "write e/f two"}},
		"a folder above a link's is swapped": {
			[]string{"mkdir a1/b", "write a1/b/f one", "mkdir a2/b", "write a2/b/f two", "link a1 a", "mkdir d", "link ../a/b/f d/f"},
			[]string{"link a2 new", "rename new a"},
		},
	} {
		for _, deaf := range []bool{false, true} {
			for _, folder := range []bool{false, true} {
				t.Run(fmt.Sprint(name, ", deaf ", deaf, ", folder ", folder), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					do(t, dir, test.before...)
					s := watching(t, deaf, filepath.Join(dir, "d/f"), folder)
					first := "gone"
					if text, err := os.ReadFile(filepath.Join(dir, "d/f")); err == nil {
						first = string(text)
					}
					s.sees(first)
					do(t, dir, test.change...)
					s.sees("two")
					// And it goes on seeing.
					do(t, dir, "write more three", "rename more d/f")
					s.sees("three")
					do(t, dir, "remove d/f")
					s.sees("gone")
				})
			}
		}
	}
}

func TestTrail(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	do(t, dir, "mkdir d/..1", "write d/..1/f one", "link ..1 d/..data", "link ..data/f d/f", "link loop loop", "link /nowhere/else far", "link ../../ d/..1/up")
	for path, want := range map[string][]string{
		"d/f":                 {"/d", "d/f", "d/..data", "d/..1", "d/..1/f"},
		"d/./..1//f":          {"/d", "d/..1", "d/..1/f"},
		"none/f":              {"/none"},
		"far/f":               {"/far", "nowhere"},
		"d/..1/up/d/..1/up/x": {"/d", "d/..1", "d/..1/up", "/d", "d/..1", "d/..1/up", "/x"},
		"d/../d/f/x":          {"/d", "/d", "d/f", "d/..data", "d/..1", "d/..1/f", "d/..1/f/x"},
	} {
		var got []string
		for _, s := range trail(filepath.Join(dir, "x")[:len(dir)+1] + path) {
			if s.dir == "/" && s.name == "nowhere" {
				got = append(got, s.name)
			} else if rel, err := filepath.Rel(dir, s.dir); err == nil && !strings.HasPrefix(rel, "..") || rel == "..1" {
				got = append(got, strings.TrimPrefix(rel, ".")+"/"+s.name)
			}
		}
		for i, s := range got { // "/d" is in dir itself
			if s == "./d" {
				got[i] = "/d"
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if n := len(trail(filepath.Join(dir, "loop/f"))); n > maxLinks+20 {
		t.Errorf("a loop of links has %d steps", n)
	}
}

// A watcher ends with its context, and leaves no goroutine (TestMain looks).
func TestWatcherIsBounded(t *testing.T) {
	t.Parallel()
	w := &watcher{names: map[string]map[string]bool{}}
	for i := range maxWatches {
		w.names[fmt.Sprint("/", i)] = nil
	}
	w.addTrail("/a/b/c")
	if len(w.names) != maxWatches {
		t.Errorf("%d folders", len(w.names))
	}
}

// When the paths change, what is at the new ones is seen, and watched.
func TestWatcherMoves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	do(t, dir, "write one 1", "mkdir d", "write d/two 2")
	var path atomic.Value
	path.Store(filepath.Join(dir, "one"))
	moved, seen := make(chan struct{}), make(chan string)
	w := &watcher{
		paths: func() (files, folders []string) { return []string{fmt.Sprint(path.Load())}, nil },
		look: func() time.Duration {
			text, _ := os.ReadFile(fmt.Sprint(path.Load()))
			seen <- string(text)
			return 0
		},
		moved: moved, log: slog.New(slog.DiscardHandler), poll: time.Hour,
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.run(ctx) })
	sees := func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("it saw %q, not %q", got, want)
			}
		case <-soon(t).Done():
			t.Fatalf("it never saw %q", want)
		}
	}
	sees("1")
	path.Store(filepath.Join(dir, "d/two"))
	moved <- struct{}{}
	sees("2")
	do(t, dir, "write new 3", "rename new d/two")
	sees("3")
	cancel()
	wg.Wait()
}

// Organisations come, change and go while the node runs, without an order.
func TestDropInsAreWatched(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	acme := s.caller(n, "acme")
	acme.mustPull(app, s.image, "")

	s.dropIn2("initech") // a new one
	s.caller(n, "initech").await(manifest, http.StatusOK)
	s.metric(n, `berth_organisation_config_ok{organisation="initech"}`, 1)

	s.put("organisations.d/initech.yaml", "tokens: 1\n") // a bad one
	n.await("the bad file is told", func() bool { return strings.Contains(n.log.String(), "initech.yaml:1:9: tokens") })
	s.caller(n, "initech").mustPull(app, s.image, "")
	s.metric(n, `berth_organisation_config_ok{organisation="initech"}`, 0)

	s.remove("organisations.d/initech.yaml") // none
	s.caller(n, "initech").await("/v2/", http.StatusUnauthorized)

	// The folder is replaced as a whole, and then gone for good.
	do(t, s.dir, "mkdir next/acme")
	s.write(s.path("next/acme/token"), "acme-secret\n")
	s.write(s.path("next/acme.yaml"), s.read("organisations.d/acme.yaml"))
	do(t, s.dir, "rename organisations.d old", "rename next organisations.d")
	s.caller(n, "globex").await("/v2/", http.StatusUnauthorized)
	acme.mustPull(app, s.image, "")
	do(t, s.dir, "remove organisations.d")
	acme.await("/v2/", http.StatusUnauthorized)
	do(t, s.dir, "mkdir organisations.d/acme")
	s.dropIn("acme")
	acme.await(manifest, http.StatusOK)
}

// The default folder may be made after the start.
func TestFolderOfDropInsIsMadeLater(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	do(t, s.dir, "remove organisations.d")
	n := s.serve()
	s.caller(n, "acme").mustRefuse("/v2/", http.StatusUnauthorized, oci.CodeUnauthorized)
	do(t, s.dir, "mkdir organisations.d/acme")
	s.dropIn("acme")
	s.caller(n, "acme").await(manifest, http.StatusOK)
	if r := s.reload(exitOK); len(r.Organisations) != 1 {
		t.Errorf("%+v", r)
	}
}

// A new main file may name another folder; it is watched then.
func TestFolderOfDropInsIsMoved(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	do(t, s.dir, "mkdir elsewhere")
	s.main("organisations_directory: elsewhere")
	s.reload(exitOK)
	s.caller(n, "acme").mustRefuse("/v2/", http.StatusUnauthorized, oci.CodeUnauthorized)
	// Nothing that happens here shows in the old folder.
	do(t, s.dir, "mkdir elsewhere/acme", "write elsewhere/acme/token acme-secret")
	s.write(s.path("elsewhere/acme.yaml"), s.read("organisations.d/acme.yaml"))
	s.caller(n, "acme").await(manifest, http.StatusOK)
}

// A folder that is gone for a moment takes no organisation with it, nor does one
// that cannot be read.
func TestFolderOfDropInsIsGoneForAMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	do(t, dir, "mkdir d", "write d/acme.yaml x", "write d/.hidden.yaml x", "write d/notes.txt x", "mkdir d/acme", "write file x")
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{changed: make(chan struct{})}
		f := follower{node: &node{log: slog.New(slog.NewTextHandler(log, nil))}}
		lists := func(at string, want []string, wantAgain time.Duration, wantOK bool) {
			t.Helper()
			names, again, ok := f.list(filepath.Join(dir, at))
			if !slices.Equal(names, want) || again != wantAgain || ok != wantOK {
				t.Errorf("%q, again in %v, ok %t", names, again, ok)
			}
		}
		lists("d", []string{"acme"}, 0, true)
		do(t, dir, "rename d old")
		lists("d", nil, goneAfter, false)
		time.Sleep(goneAfter - time.Millisecond)
		lists("d", nil, time.Millisecond, false)
		do(t, dir, "rename old d")
		lists("d", []string{"acme"}, 0, true)
		do(t, dir, "rename d old")
		lists("d", nil, goneAfter, false)
		time.Sleep(goneAfter)
		lists("d", nil, 0, true)
		lists("d", nil, 0, true)
		for range 3 {
			lists("file", nil, 0, false)
		}
		if n := strings.Count(log.String(), "cannot be read"); n != 1 {
			t.Errorf("logged %d times: %s", n, log)
		}
	})
}

// A certificate that is renewed in place is used at once; a half-renewed one is
// not, and connections go on.
func TestCertificatesAreWatched(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.certificate("one")
	s.save(strings.Replace(s.read("berth.yaml"), "callers: open}", "callers: open, tls: {cert_file: tls.crt, key_file: tls.key}}", 1))
	n := s.serve()
	door := strings.TrimPrefix(n.doors[openDoor], "http://")
	if got := servedBy(t, door); got != "one" {
		t.Fatalf("served with %q", got)
	}
	s.certificate("two")
	await(t, "the new certificate", func() bool { return servedBy(t, door) == "two" })

	old := s.read("tls.key")
	s.certificate("three")
	s.put("tls.key", old) // does not belong to it
	n.await("the odd pair is told", func() bool { return strings.Contains(n.log.String(), "a new certificate cannot be used") })
	if got := servedBy(t, door); got == "one" {
		t.Errorf("served with %q", got)
	}
	s.certificate("four")
	await(t, "the next good one", func() bool { return servedBy(t, door) == "four" })
}

// What is wrong with a pair is told once, however often it is looked at.
func TestCertificateThatIsBad(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.certificate("one")
	c, err := newCertificate(config.TLS{CertFile: s.path("tls.crt"), KeyFile: s.path("tls.key")})
	if err != nil {
		t.Fatal(err)
	}
	key := s.read("tls.key")
	s.certificate("two")
	s.put("tls.key", key)
	if _, err := c.look(time.Now()); err == nil || errors.Is(err, errUnchanged) {
		t.Errorf("an odd pair: %v", err)
	}
	for range 3 {
		s.put("tls.key", key)
		if _, err := c.look(time.Now()); !errors.Is(err, errUnchanged) {
			t.Errorf("the same again: %v", err)
		}
	}
	if pair, err := c.get(nil); err != nil || pair.Leaf.Subject.CommonName != "one" {
		t.Errorf("in use: %v, %v", pair.Leaf.Subject, err)
	}
	s.certificate("three")
	if _, err := c.look(time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := newCertificate(config.TLS{CertFile: s.path("none"), KeyFile: s.path("tls.key")}); err == nil {
		t.Error("no certificate is no certificate")
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := soon(t)
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// certificate writes a pair for name, the certificate first.
func (s *stage) certificate(name string) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.put("tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s.put("tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}

// servedBy is the name in the certificate that an address shows.
func servedBy(t *testing.T, address string) string {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, ok := c.(*tls.Conn)
	if !ok {
		t.Fatalf("no TLS but %T", c)
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}
