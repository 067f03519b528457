package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/internal/config"
	"berth/internal/nodetest"
)

// What is wrong with a pair is told once, however often it is looked at.
func TestCertificateThatIsBad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nodetest.Certificate(t, dir, "one")
	c, err := newCertificate(config.TLS{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")})
	if err != nil {
		t.Fatal(err)
	}
	key := readFile(t, filepath.Join(dir, "tls.key"))
	nodetest.Certificate(t, dir, "two")
	nodetest.Put(t, filepath.Join(dir, "tls.key"), key)
	if err := c.renew(); err == nil || errors.Is(err, errUnchanged) {
		t.Errorf("an odd pair: %v", err)
	}
	for range 3 {
		nodetest.Put(t, filepath.Join(dir, "tls.key"), key)
		if err := c.renew(); !errors.Is(err, errUnchanged) {
			t.Errorf("the same again: %v", err)
		}
	}
	if pair, err := c.get(nil); err != nil || pair.Leaf.Subject.CommonName != "one" {
		t.Errorf("in use: %v, %v", pair.Leaf.Subject, err)
	}
	nodetest.Certificate(t, dir, "three")
	if err := c.renew(); err != nil {
		t.Error(err)
	}
	if _, err := newCertificate(config.TLS{CertFile: filepath.Join(dir, "none"), KeyFile: filepath.Join(dir, "tls.key")}); err == nil {
		t.Error("no certificate is no certificate")
	}
}

// The key of a certificate is a secret like any other, and a pipe in its place
// stops nothing.
func TestKeyOfACertificateIsASecret(t *testing.T) {
	dir := t.TempDir()
	nodetest.Certificate(t, dir, "one")
	files := config.TLS{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	if _, err := newCertificate(files); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o604, 0o602, 0o644} {
		if err := os.Chmod(files.KeyFile, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := newCertificate(files); err == nil || !strings.Contains(err.Error(), "chmod 0640") {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if _, err := newCertificate(files); err != nil {
		t.Errorf("among systemd's credentials: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	for _, file := range []string{files.KeyFile, files.CertFile} {
		nodetest.Certificate(t, dir, "two")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := newCertificate(files); err == nil {
			t.Errorf("%s is a pipe", file)
		}
	}
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
