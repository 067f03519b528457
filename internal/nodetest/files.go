// Package nodetest is what tests of the whole program have in common, whether they
// run it from outside or look at its parts. Only tests use it.
package nodetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Patience is how long a test waits for what must happen at once.
const Patience = 30 * time.Second

// Soon is a context for such a wait, also while a test is cleaned up.
func Soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Do runs a shell's worth of file operations: "mkdir D", "write F TEXT",
// "rename A B", "link TARGET NAME", "remove F".
func Do(t testing.TB, dir string, ops ...string) {
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

// Put replaces a file by renaming another, as a control plane does.
func Put(t testing.TB, file, text string) {
	t.Helper()
	beside := file + ".new"
	if err := os.WriteFile(beside, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(beside, file); err != nil {
		t.Fatal(err)
	}
}

// Certificate puts a pair for name into dir, as tls.crt and then tls.key.
func Certificate(t testing.TB, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	Put(t, filepath.Join(dir, "tls.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	Put(t, filepath.Join(dir, "tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}
