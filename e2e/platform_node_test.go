//go:build e2e

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// node is a worker node as doc/platform.md has it: two organisations that came
// as drop-ins, and one berth before everything.
//
//   - registry.acme.test is everybody's registry, at which only acme has an
//     account; registry.globex.test the other way round.
//   - own.test is a registry that each of the two brought: one name, two places,
//     and so other bytes under the same image name.
type node struct {
	*daemon
	dir      string
	required string // the port whose names must begin with the organisation
	optional string // the port whose names need not
	admin    string
	acme     *site
	globex   *site
	own      map[string]*site // by organisation
}

// site is a registry and what berth has asked of it.
type site struct {
	*upstream
	gate *gate
}

var nodeConfig = template.Must(template.New("config").Parse(`
listeners:
  - address: {{.Required}}
    callers: token
    organisation_in_name: required
  - address: {{.Optional}}
    callers: token
registries:
  registry.acme.test: {endpoint: "{{.Acme}}"}
  registry.globex.test: {endpoint: "{{.Globex}}"}
organisations_directory: organisations.d
organisation_registries: {allow_private: [127.0.0.0/8]}
cache: {directory: cache, max_size: 1GiB, min_free: 1%, tag_ttl: 0s, access_ttl: {{.AccessTTL}}}
admin: {address: {{.Admin}}, socket: {{.Socket}}}
log: {level: debug}
`))

// accessTTL is short, so that a test can see an access end.
const accessTTL = 2 * time.Second

func newNode(t *testing.T) *node {
	t.Helper()
	onlyBehindBerth(t)
	cert := newCertificate(t)
	n := &node{
		dir: tempDir(t, "node"), required: freeAddress(t), optional: freeAddress(t), admin: freeAddress(t),
		acme:   newSite(t, "registry.acme.test", acmeUpstream, acmeHash, nil),
		globex: newSite(t, "registry.globex.test", globexUpstream, globexHash, nil),
		own: map[string]*site{
			"acme":   newSite(t, "own.test", acmeUpstream, acmeHash, cert),
			"globex": newSite(t, "own.test", globexUpstream, globexHash, cert),
		},
	}
	n.writeConfig(t)
	n.deliver(t, "acme", n.acmeDropIn())
	n.deliver(t, "globex", n.globexDropIn())
	n.start(t, cert.file)
	return n
}

func (n *node) config() string { return filepath.Join(n.dir, "berth.yaml") }

func (n *node) writeConfig(t *testing.T) {
	t.Helper()
	var text strings.Builder
	must(t, nodeConfig.Execute(&text, map[string]any{
		"Required": n.required, "Optional": n.optional, "Admin": n.admin,
		"Acme": n.acme.gate.url(), "Globex": n.globex.gate.url(),
		"AccessTTL": accessTTL, "Socket": filepath.Join(n.dir, "admin.sock"),
	}))
	writeFile(t, n.config(), text.String())
}

// deliver is what a control plane does: secrets first, then the drop-in.
func (n *node) deliver(t *testing.T, organisation, dropIn string) {
	t.Helper()
	folder := filepath.Join(n.dir, "organisations.d")
	for file, login := range map[string]login{"acme": acmeUpstream, "globex": globexUpstream} {
		if file == organisation {
			writeFile(t, filepath.Join(folder, organisation, "secret"), login.password)
		}
	}
	writeFile(t, filepath.Join(folder, organisation+".yaml"), dropIn)
}

func (n *node) acmeDropIn() string {
	return fmt.Sprintf(`
tokens: [{name: node, sha256: %s}]
credentials:
  - {name: ci, registry: registry.acme.test, username: acme-bot, password_file: acme/secret}
  - {name: old, registry: registry.acme.test, repositories: [elsewhere/**], username: acme-bot, password: last-year's}
  - {name: own, registry: own.test, username: acme-bot, password_file: acme/secret}
registries:
  own.test: {endpoint: "%s", allow_private: [127.0.0.0/8]}
`, hashOf(callerToken("acme")), n.own["acme"].gate.url())
}

func (n *node) globexDropIn() string {
	return fmt.Sprintf(`
tokens: [{name: node, sha256: %s}]
credentials:
  - {name: main, registry: registry.globex.test, username: globex-bot, password_file: globex/secret}
  - {name: own, registry: own.test, username: globex-bot, password_file: globex/secret}
registries:
  own.test: {endpoint: "%s", allow_private: [127.0.0.0/8]}
`, hashOf(callerToken("globex")), n.own["globex"].gate.url())
}

func (n *node) start(t *testing.T, authorities string) {
	t.Helper()
	path, err := berthBinary()
	must(t, err)
	n.daemon = startDaemon(t, daemonOptions{
		name: "berth", path: path, args: []string{"serve", "--config", n.config()}, dir: n.dir,
		env:   []string{"SSL_CERT_FILE=" + authorities}, // an organisation's registry is trusted by the system's
		ready: answers("http://"+n.optional+"/v2/", http.StatusUnauthorized),
	})
}

// as is how a Service of an organisation logs in.
func (n *node) as(organisation string) login {
	name, _, _ := strings.Cut(organisation, "+")
	return login{organisation, callerToken(name)}
}

// local is an organisation's name for an image on this node, as doc/platform.md
// makes it: host, organisation, registry, repository.
func (n *node) local(organisation string, i image) string {
	return n.required + "/" + organisation + "/" + i.at.name + "/" + i.repo + ":" + i.tag
}

// shared is a name that says nothing of the organisation.
func (n *node) shared(i image) string {
	return n.optional + "/" + i.at.name + "/" + i.repo + ":" + i.tag
}

// pushOwn puts an image upstream that has one file, /owner, with its owner's name.
func pushOwn(t *testing.T, at *site, repo, owner string) image {
	t.Helper()
	return push(t, at.upstream, repo, buildImage(t, runtime.GOARCH, []string{"/owner"}, layerOf(t, "owner", []byte(owner))))
}

// pushBoth puts an image of each organisation under one name, own.test/REPO:1.
func (n *node) pushBoth(t *testing.T, repo string) map[string]image {
	t.Helper()
	both := map[string]image{}
	for organisation, at := range n.own {
		both[organisation] = pushOwn(t, at, repo, organisation)
	}
	if a, g := both["acme"], both["globex"]; a.digest == g.digest || n.shared(a) != n.shared(g) {
		t.Fatalf("%s %s and %s %s: this is no test", n.shared(a), a.digest, n.shared(g), g.digest)
	}
	return both
}

// steal makes globex's own registry claim an image with the layers of one of
// acme's, which it does not have, and which berth therefore does not give it.
// Whoever has seen a manifest and its configuration can do that.
func (n *node) steal(t *testing.T, repo string) (stolen, thief image) {
	t.Helper()
	img := buildImage(t, runtime.GOARCH, []string{"/owner"}, layerOf(t, "owner", []byte("acme")), layer(t, repo, 32<<10))
	stolen = push(t, n.acme.upstream, repo, img)
	other, err := mutate.Config(img, v1.Config{Cmd: []string{"/thief"}})
	must(t, err)
	digest, err := other.Digest()
	must(t, err)
	n.own["globex"].gate.claim(t, repo, other)
	return stolen, image{at: n.own["globex"].upstream, repo: repo, tag: "1", digest: digest.String()}
}

func newSite(t *testing.T, name string, owner login, hash string, cert *certificate) *site {
	t.Helper()
	u := startRegistry(t, name, owner, hash)
	return &site{upstream: u, gate: startGate(t, u.addr, cert)}
}

// gate stands where berth looks for a registry, and notes as whom it comes.
type gate struct {
	addr   string
	secure bool
	server *http.Server

	mu    sync.Mutex
	users map[string]int      // requests, by user name; "" is nobody
	says  int                 // instead of an answer, to whoever has a login; 0: nothing
	own   map[string]document // what the gate has itself, by path
}

// startGate forwards to a registry until the test ends; over TLS if it has a
// certificate.
func startGate(t *testing.T, to string, cert *certificate) *gate {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	g := &gate{addr: l.Addr().String(), secure: cert != nil, users: map[string]int{}, own: map[string]document{}}
	if cert != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert.pair}, MinVersion: tls.VersionTLS12})
	}
	transport := &http.Transport{DisableCompression: true}
	forward := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: to})
			r.Out.Host = r.In.Host
		},
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		FlushInterval: -1,
	}
	g.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := g.note(r); status != 0 {
			w.WriteHeader(status)
			return
		}
		if d, ok := g.document(r.URL.Path); ok {
			d.serve(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	})}
	var done sync.WaitGroup
	done.Go(func() { _ = g.server.Serve(l) })
	t.Cleanup(func() {
		_ = g.server.Close()
		done.Wait()
		transport.CloseIdleConnections()
	})
	return g
}

func (g *gate) note(r *http.Request) (status int) {
	user, _, ok := r.BasicAuth()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.users[user]++
	if !ok {
		return 0
	}
	return g.says
}

// document is something that only the gate knows of.
type document struct {
	mediaType, digest string
	body              []byte
}

func (d document) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", d.mediaType)
	w.Header().Set("Docker-Content-Digest", d.digest)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.body))
}

func (g *gate) document(path string) (document, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, ok := g.own[path]
	return d, ok
}

// claim puts the manifest and the configuration of an image before a registry,
// and not one of its layers.
func (g *gate) claim(t *testing.T, repo string, img v1.Image) {
	t.Helper()
	manifest, err := img.RawManifest()
	must(t, err)
	digest, err := img.Digest()
	must(t, err)
	config, err := img.RawConfigFile()
	must(t, err)
	name, err := img.ConfigName()
	must(t, err)
	m := document{string(types.OCIManifestSchema1), digest.String(), manifest}
	g.mu.Lock()
	defer g.mu.Unlock()
	base := "/v2/" + repo
	g.own[base+"/manifests/1"], g.own[base+"/manifests/"+digest.String()] = m, m
	g.own[base+"/blobs/"+name.String()] = document{"application/octet-stream", name.String(), config}
}

// came is how many requests came as a user.
func (g *gate) came(user string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.users[user]
}

// say answers everybody who logs in with a status from now on.
func (g *gate) say(status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.says = status
}

func (g *gate) url() string {
	if g.secure {
		return "https://" + g.addr
	}
	return "http://" + g.addr
}

// certificate is for 127.0.0.1, and its own authority.
type certificate struct {
	pair tls.Certificate
	file string // PEM
}

func newCertificate(t *testing.T) *certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return &certificate{
		pair: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		file: writeFile(t, filepath.Join(tempDir(t, "ca"), "ca.pem"), string(text)),
	}
}
