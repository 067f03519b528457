//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// login is a user name and a password or token; none if the user is empty.
type login struct{ user, password string }

func (l login) authenticator() authn.Authenticator {
	if l.user == "" {
		return authn.Anonymous
	}
	return &authn.Basic{Username: l.user, Password: l.password}
}

// pair is how command lines want a login.
func (l login) pair() string { return l.user + ":" + l.password }

// upstream is a real registry (distribution) behind a tap.
type upstream struct {
	name  string // as users write it
	owner login  // who may pull and push; nobody in particular if empty
	via   string // the address by which berth reaches it, if another one
	*tap
}

// registryConfig is the registry's own format.
const registryConfig = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http: {addr: %s, secret: made-up}
`

// startRegistry starts a registry that only the owner may use; with an empty
// owner, everybody. hash is bcrypt of the owner's password.
func startRegistry(t *testing.T, name string, owner login, hash string, env ...string) *upstream {
	t.Helper()
	dir := tempDir(t, "reg")
	auth := ""
	if owner.user != "" {
		users := writeFile(t, filepath.Join(dir, "htpasswd"), owner.user+":"+hash+"\n")
		auth = fmt.Sprintf("auth: {htpasswd: {realm: made-up, path: %s}}\n", users)
	}
	addr := freeAddress(t)
	serveRegistry(t, dir, addr, auth, env...)
	return &upstream{name: name, owner: owner, tap: startTap(t, addr)}
}

// serveRegistry starts distribution with this part of a configuration.
func serveRegistry(t *testing.T, dir, addr, auth string, env ...string) {
	t.Helper()
	path := registryProgram.find(t)
	config := fmt.Sprintf(registryConfig, filepath.Join(dir, "data"), addr) + auth
	startDaemon(t, daemonOptions{
		name:  "registry",
		path:  path,
		args:  []string{"serve", writeFile(t, filepath.Join(dir, "config.yml"), config)},
		dir:   dir,
		env:   env,
		quiet: true, // every blob that is not there yet is an error to it
		ready: answers("http://"+addr+"/v2/", http.StatusOK, http.StatusUnauthorized),
	})
}

// tap lies on the wire between two programs and remembers what was asked.
type tap struct {
	addr   string
	server *http.Server
	done   chan struct{}

	mu        sync.Mutex
	seen      []request
	gate      chan struct{} // nil: no blob is held
	manifests chan struct{} // nil: no manifest is held
	tokens    http.Handler  // answers /token; nil: nothing does here
	held      int           // answers that were
}

// holdAfter is how much of a blob passes a tap that holds.
const holdAfter = 4 << 20

// hold lets no blob pass further than holdAfter until it is released.
func (tp *tap) hold() (release func()) {
	gate := make(chan struct{})
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.gate = gate
	return sync.OnceFunc(func() { close(gate) })
}

// holdManifests lets no answer to a GET of a manifest pass until it is released.
func (tp *tap) holdManifests() (release func()) {
	gate := make(chan struct{})
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.manifests = gate
	return sync.OnceFunc(func() { close(gate) })
}

// slow is for httputil.ReverseProxy.
func (tp *tap) slow(r *http.Response) error {
	if r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, "/manifests/") {
		return tp.slowManifest(r)
	}
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if tp.gate != nil && r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, "/blobs/") {
		// Where a body begins counts: what is held on one connection is not to be had
		// on a new one either.
		var from int
		_, _ = fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-", &from) // 0 for a whole blob
		r.Body = &heldBody{r.Body, r.Request.Context(), tp.gate, max(holdAfter-from, 0), sync.OnceFunc(tp.noteHeld)}
	}
	return nil
}

// slowManifest holds an answer before its first byte.
func (tp *tap) slowManifest(r *http.Response) error {
	tp.mu.Lock()
	gate := tp.manifests
	tp.mu.Unlock()
	if gate == nil || r.StatusCode != http.StatusOK {
		return nil
	}
	select {
	case <-gate: // it was released before this answer
		return nil
	default:
		tp.noteHeld()
	}
	select {
	case <-gate:
		return nil
	case <-r.Request.Context().Done():
		return r.Request.Context().Err()
	}
}

func (tp *tap) noteHeld() {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.held++
}

// forgetHeld counts from zero again.
func (tp *tap) forgetHeld() {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.held = 0
}

// awaitHeld waits until so many answers were held.
func (tp *tap) awaitHeld(t *testing.T, answers int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.After(startLimit); ; {
		tp.mu.Lock()
		held := tp.held
		tp.mu.Unlock()
		if held >= answers {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%d answers are held, not %d", held, answers)
		}
	}
}

type heldBody struct {
	io.ReadCloser
	ctx  context.Context
	gate <-chan struct{}
	left int
	note func()
}

func (b *heldBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.note()
		select {
		case <-b.gate:
			return b.ReadCloser.Read(p)
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// request is what the tap keeps of a request.
type request struct {
	method, path, query, ranges string
	shown                       string // Authorization and X-Meta-Berth
}

// startTap forwards to an address until the test ends.
func startTap(t *testing.T, to string) *tap {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16}
	forward := &httputil.ReverseProxy{
		Transport: transport,
		// The Host stays as the client wrote it: registries build URLs of it.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: to})
			r.Out.Host = r.In.Host
		},
		// Clients that leave are no error of the tap.
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		FlushInterval: -1,
	}
	tp := &tap{addr: l.Addr().String(), done: make(chan struct{})}
	forward.ModifyResponse = tp.slow
	tp.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tp.note(r)
		if tp.tokens != nil && r.URL.Path == "/token" {
			tp.tokens.ServeHTTP(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	})}
	go func() {
		defer close(tp.done)
		_ = tp.server.Serve(l)
	}()
	t.Cleanup(func() {
		tp.cut()
		transport.CloseIdleConnections()
	})
	return tp
}

// cut ends every connection and refuses new ones, as a dead registry does.
func (tp *tap) cut() {
	_ = tp.server.Close()
	<-tp.done
}

func (tp *tap) note(r *http.Request) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.seen = append(tp.seen, request{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Range"), r.Header.Get("Authorization") + r.Header.Get("X-Meta-Berth")})
}

// requests are those so far whose path contains part.
func (tp *tap) requests(part string) []request {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	var found []request
	for _, r := range tp.seen {
		if strings.Contains(r.path, part) {
			found = append(found, r)
		}
	}
	return found
}

// await waits until somebody has asked for a path that contains part.
func (tp *tap) await(t *testing.T, part string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.After(startLimit); len(tp.requests(part)) == 0; {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("nobody asks for %s", part)
		}
	}
}

// up says whether the registry can be reached.
func (u *upstream) up(ctx context.Context) error {
	return answers("http://"+u.addr+"/v2/", http.StatusOK, http.StatusUnauthorized)(ctx)
}
