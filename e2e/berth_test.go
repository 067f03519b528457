//go:build e2e

package e2e

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
)

// berth is a running berth.
type berth struct {
	tokens string // address of the listener that asks who is there
	open   string // address of the one that does not; Docker Hub is its registry
	acme   string // address of an open one where everybody is acme
	admin  string
	dir    string
	held   []*os.File // sockets that outlive it; none: it opens its own
	*daemon
}

// callerToken is what a node of the organisation shows.
func callerToken(organisation string) string { return organisation + "-node-token-0123456789abcdef" }

var berthConfig = template.Must(template.New("config").Parse(`
listeners:
  - address: {{.Tokens}}
    callers: token
  - address: {{.Open}}
    callers: open
  - address: {{.Acme}}
    callers: open
    organisation: acme
registries:
{{- range .Registries}}
  {{.Name}}:
    type: generic
    endpoint: http://{{.Address}}
    allow_private: [127.0.0.0/8]
{{- end}}
organisations:
  acme:
    tokens: [{name: node, sha256: {{.AcmeToken}}}]
    credentials:
      - {name: ci, registry: registry.acme.test, username: acme-bot, password_file: secrets/acme}
      - {name: stale, registry: registry.globex.test, username: globex-bot, password_file: secrets/stale}
  globex:
    tokens: [{name: node, sha256: {{.GlobexToken}}}]
    credentials:
      - {name: main, registry: registry.globex.test, username: globex-bot, password_file: secrets/globex}
cache: {directory: {{.Cache}}, max_size: 1GiB, min_free: 1%}
admin: {address: {{.Admin}}, socket: {{.Socket}}}
log: {level: debug, format: text}
`))

// startBerth starts berth in front of the world's registries.
func startBerth(t *testing.T, w *world) *berth {
	t.Helper()
	dir := tempDir(t, "berth")
	b := &berth{
		tokens: freeAddress(t), open: freeAddress(t), acme: freeAddress(t), admin: freeAddress(t),
		dir: dir,
	}
	writeFile(t, filepath.Join(dir, "secrets/acme"), acmeUpstream.password+"\n")
	writeFile(t, filepath.Join(dir, "secrets/globex"), globexUpstream.password+"\n")
	writeFile(t, filepath.Join(dir, "secrets/stale"), "last-year's\n")
	b.writeConfig(t, w)
	b.start(t)
	return b
}

// writeConfig writes berth's configuration as it is now.
func (b *berth) writeConfig(t *testing.T, w *world) {
	t.Helper()
	type registry struct{ Name, Address string }
	var text strings.Builder
	err := berthConfig.Execute(&text, map[string]any{
		"Tokens": b.tokens, "Open": b.open, "Acme": b.acme, "Admin": b.admin,
		"Registries": []registry{
			{w.acme.name, cmp.Or(w.acme.via, w.acme.addr)}, {w.globex.name, w.globex.addr}, {w.hub.name, w.hub.addr},
		},
		"AcmeToken": hashOf(callerToken("acme")), "GlobexToken": hashOf(callerToken("globex")),
		"Cache":  filepath.Join(b.dir, "cache"),
		"Socket": filepath.Join(b.dir, "admin.sock"),
	})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, b.config(), text.String())
}

func (b *berth) config() string { return filepath.Join(b.dir, "config.yaml") }

// start starts the program, or starts it again after it was stopped or killed.
func (b *berth) start(t *testing.T) {
	t.Helper()
	path, err := berthBinary()
	if err != nil {
		t.Fatal(err)
	}
	o := daemonOptions{
		name:  "berth",
		path:  path,
		args:  []string{"serve", "--config", b.config()},
		dir:   b.dir,
		ready: answers("http://"+b.open+"/v2/", http.StatusOK),
	}
	if len(b.held) > 0 {
		// Whoever is exec'ed keeps the number of the process, which LISTEN_PID is about.
		o.path, o.args = "/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, path}, o.args...)
		o.env, o.files = []string{fmt.Sprintf("LISTEN_FDS=%d", len(b.held))}, b.held
	}
	b.daemon = startDaemon(t, o)
}

// hold keeps the sockets of berth open from now on, as systemd does.
func (b *berth) hold(t *testing.T) {
	t.Helper()
	b.stop(t)
	for _, address := range []string{b.tokens, b.open, b.acme} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		must(t, err)
		f, err := l.(*net.TCPListener).File()
		must(t, err)
		must(t, l.Close())
		t.Cleanup(func() { _ = f.Close() })
		b.held = append(b.held, f)
	}
	b.start(t)
}

// wrote says whether what berth has logged so far contains any of these.
func (b *berth) wrote(t *testing.T, texts ...string) bool {
	t.Helper()
	log, err := os.ReadFile(b.logFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		if strings.Contains(string(log), text) {
			return true
		}
	}
	return false
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
