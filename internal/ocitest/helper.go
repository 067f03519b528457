package ocitest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// CredentialHelper puts docker-credential-NAME into PATH. Each run appends a line
// to the file "runs" beside it, with what it was asked and its environment.
func CredentialHelper(t *testing.T, name, script string) (runs func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "runs")
	text := fmt.Sprintf("#!/bin/sh\nread server\necho \"$1 $server $(env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^PATH=' | tr '\\n' ' ')\" >> %s\n%s\n", log, script)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(text), 0o700); err != nil { //nolint:gosec // G306: it is run
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		data, err := os.ReadFile(log)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
}
