package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/internal/nodetest"
	"berth/internal/ocitest"
	"berth/oci"
)

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
	nodetest.Do(t, s.dir, "mkdir next/acme")
	s.write(s.path("next/acme/token"), "acme-secret\n")
	s.write(s.path("next/acme.yaml"), s.read("organisations.d/acme.yaml"))
	nodetest.Do(t, s.dir, "rename organisations.d old", "rename next organisations.d")
	s.caller(n, "globex").await("/v2/", http.StatusUnauthorized)
	acme.mustPull(app, s.image, "")
	nodetest.Do(t, s.dir, "remove organisations.d")
	acme.await("/v2/", http.StatusUnauthorized)
	nodetest.Do(t, s.dir, "mkdir organisations.d/acme")
	s.dropIn("acme")
	acme.await(manifest, http.StatusOK)
}

// The default folder may be made after the start.
func TestFolderOfDropInsIsMadeLater(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	nodetest.Do(t, s.dir, "remove organisations.d")
	n := s.serve()
	s.caller(n, "acme").mustRefuse("/v2/", http.StatusUnauthorized, oci.CodeUnauthorized)
	nodetest.Do(t, s.dir, "mkdir organisations.d/acme")
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
	nodetest.Do(t, s.dir, "mkdir elsewhere")
	s.main("organisations_directory: elsewhere")
	s.reload(exitOK)
	s.caller(n, "acme").mustRefuse("/v2/", http.StatusUnauthorized, oci.CodeUnauthorized)
	// Nothing that happens here shows in the old folder.
	nodetest.Do(t, s.dir, "mkdir elsewhere/acme", "write elsewhere/acme/token acme-secret")
	s.write(s.path("elsewhere/acme.yaml"), s.read("organisations.d/acme.yaml"))
	s.caller(n, "acme").await(manifest, http.StatusOK)
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
	nodetest.Certificate(s.t, s.dir, name)
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

// An organisation that is taken away or changed while somebody else's part of the
// configuration cannot be used is so as soon as that can be used again, without a
// reload.
func TestDropIns_AreOwedWhileAnotherFileFails(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.put("ca.pem", string(ocitest.New(t, ocitest.Options{TLS: true}).CertPEM()))
	s.save(strings.Replace(s.read("berth.yaml"), "endpoint:", fmt.Sprintf("ca_file: %q, endpoint:", s.path("ca.pem")), 1))
	n := s.serve()
	globex := s.caller(n, "globex")

	pem := s.read("ca.pem")
	s.put("ca.pem", "no certificate")
	s.remove("organisations.d/globex.yaml")
	s.dropIn2("initech")
	n.await("it is said", func() bool { return n.said("ERROR", "changed organisations cannot be put in force") > 0 })
	if a := globex.get("/v2/"); a.status != http.StatusOK {
		t.Errorf("the old ones stay: %s", a)
	}
	s.put("ca.pem", pem)
	globex.await("/v2/", http.StatusUnauthorized)
	if a := s.caller(n, "initech").get("/v2/"); a.status != http.StatusOK {
		t.Errorf("the new one: %s", a)
	}
	if times := n.said("ERROR", "changed organisations cannot be put in force"); times > 2 { // the first look may fall between the two changes
		t.Errorf("it is said %d times", times)
	}
}

// What happens to the folder right after the start is seen as well: nobody knows when
// it is looked at first.
func TestDropIns_AreWatchedFromTheStart(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.remove("organisations.d/globex.yaml")
	s.caller(n, "globex").await("/v2/", http.StatusUnauthorized)
}
