package main

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// home is a folder with a configuration, its secrets and a cache. Nodes can be
// started from it one after the other.
type home struct {
	t   testing.TB
	dir string
	// clock is that of nodes in this process. Registries may share it.
	clock *clock
	// transport is that of all its clients.
	transport *http.Transport

	listeners     []string // in YAML's flow style, as all of these
	registries    []string
	organisations map[string]*tenant
	cache         map[string]string
	cacheAt       string // the folder of the cache, if not the usual one
	admin         string // its address
	socket        string // of commands; empty: none
	audit         string // its file; empty: none
	more          string // further keys
}

// tenant is one organisation.
type tenant struct {
	name        string
	token       string
	header      string // one that is for headers; empty: none
	credentials []string
	more        string // further keys
}

// newHome is a home with a listener that wants tokens and one that is open.
func newHome(t testing.TB) *home {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &home{
		t: t, dir: t.TempDir(), clock: &clock{}, transport: transport,
		listeners: []string{
			`{address: "127.0.0.1:0", callers: token}`,
			`{address: "127.0.0.1:0", callers: open}`,
		},
		organisations: map[string]*tenant{},
		cache:         map[string]string{"max_size": "4GiB", "min_free": "1MB"},
		admin:         "127.0.0.1:0",
	}
}

// The listeners of newHome, in their order.
const (
	tokenDoor = iota
	openDoor
)

// registry makes r the place where name is reached; more are keys and values of
// its entry.
func (h *home) registry(name string, r *ocitest.Registry, more ...string) {
	h.t.Helper()
	if pem := r.CertPEM(); pem != nil {
		file := filepath.Join(h.dir, strings.NewReplacer(":", "_", "/", "_").Replace(name)+".pem")
		h.write(file, string(pem))
		more = append(more, fmt.Sprintf("ca_file: %q", file))
	}
	h.endpoint(name, r.URL(), more...)
}

// endpoint is registry for a place that is no ocitest.Registry.
func (h *home) endpoint(name, url string, more ...string) {
	h.registries = append(h.registries, fmt.Sprintf(`%q: {%s}`, name, strings.Join(append([]string{"endpoint: " + url}, more...), ", ")))
}

// tenant makes an organisation and its token.
func (h *home) tenant(name string) *tenant {
	o := &tenant{name: name, token: "door-" + name + "-" + fmt.Sprintf("%x", sha256.Sum256([]byte(h.dir+name)))[:24]}
	h.organisations[name] = o
	return o
}

// credential gives organisation an account at a registry; more are keys and
// values of its entry.
func (h *home) credential(organisation, account, registry, user, password string, more ...string) {
	h.t.Helper()
	file := filepath.Join(h.dir, fmt.Sprintf("%s-%s-%x", organisation, account, sha256.Sum256([]byte(registry)))[:60])
	h.write(file, password+"\n")
	o := h.organisations[organisation]
	o.credentials = append(o.credentials, fmt.Sprintf("{%s}", strings.Join(append([]string{
		"name: " + account, fmt.Sprintf("registry: %q", registry), fmt.Sprintf("username: %q", user), fmt.Sprintf("password_file: %q", file),
	}, more...), ", ")))
}

func (h *home) write(file, content string) {
	h.t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// cacheDir is the folder of the cache.
func (h *home) cacheDir() string { return cmp.Or(h.cacheAt, filepath.Join(h.dir, "cache")) }

// config writes the configuration file.
func (h *home) config() (file string) {
	h.t.Helper()
	var b strings.Builder
	b.WriteString("listeners:\n")
	for _, l := range h.listeners {
		fmt.Fprintf(&b, "  - %s\n", l)
	}
	b.WriteString("registries:\n")
	for _, r := range h.registries {
		fmt.Fprintf(&b, "  %s\n", r)
	}
	b.WriteString("organisations:\n")
	for name, o := range h.organisations {
		header := ""
		if o.header != "" {
			header = fmt.Sprintf(", {name: file, sha256: %x, for: header}", sha256.Sum256([]byte(o.header)))
		}
		fmt.Fprintf(&b, "  %s:\n    tokens: [{name: only, sha256: %x}%s]\n    credentials: [%s]\n    %s\n", name, sha256.Sum256([]byte(o.token)), header, strings.Join(o.credentials, ", "), o.more)
	}
	fmt.Fprintf(&b, "cache:\n  directory: %q\n", h.cacheDir())
	for key, value := range h.cache {
		fmt.Fprintf(&b, "  %s: %s\n", key, value)
	}
	fmt.Fprintf(&b, "admin: {address: %q, socket: %q}\nlog: {level: debug, format: json}\n", h.admin, h.socket)
	if h.audit != "" {
		fmt.Fprintf(&b, "audit: {file: %q}\n", h.audit)
	}
	if len(h.registries) == 0 {
		return h.save(strings.Replace(b.String(), "registries:\n", "", 1))
	}
	return h.save(b.String())
}

func (h *home) save(config string) string {
	config += h.more
	file := filepath.Join(h.dir, "berth.yaml")
	if len(h.organisations) == 0 {
		config = strings.Replace(config, "organisations:\n", "", 1)
	}
	h.write(file, config)
	return file
}

// kept lists the files in the cache whose names have hex in it.
func (h *home) kept(hex string) []string {
	h.t.Helper()
	var found []string
	for _, f := range h.files() {
		if strings.Contains(filepath.Base(f), hex) {
			found = append(found, f)
		}
	}
	return found
}

// files lists all regular files of the cache.
func (h *home) files() []string {
	h.t.Helper()
	var found []string
	err := filepath.WalkDir(h.cacheDir(), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// clock is time.Now, put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }
