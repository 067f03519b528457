package isolation_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/auth/caller"
	"berth/cache"
	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/internal/registry"
	"berth/internal/secret"
	"berth/oci"
	"berth/proxy"
	"berth/upstream"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

// clock is time.Now, put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// place is one registry that the node knows.
type place struct {
	name  string
	owner string // who brought it; empty: the platform
	kind  string
	url   string
	reg   *ocitest.Registry // nil: url is no test registry
	// tokens are allowed token endpoints.
	tokens []string
	// strict dials nothing but public addresses.
	strict  bool
	uniform bool
	object  bool // rights differ within a repository
	keep    bool // what is deleted there is kept
}

// account is what one organisation has at one registry. Its secret may change.
type account struct {
	name, organisation, registry string
	repositories                 []string

	mu             sync.Mutex
	user, password string
}

func (a *account) set(user, password string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.user, a.password = user, password
}

func (a *account) get() (user, password string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.user, a.password
}

func (a *account) login(context.Context) (credential.Login, error) {
	user, password := a.get()
	return credential.Login{Username: secret.New(user), Password: secret.New(password)}, nil
}

// world is a node and what is around it.
type world struct {
	t     testing.TB
	clock *clock
	dir   string
	key   credential.Key
	log   *logBook
	cache cache.Options // but for the folder, the clock and the log
	// resolver looks up the names of registries. If nil, nothing does.
	resolver *net.Resolver
	// hosts, limiter and memory share out what goes to registries, what is answered at once,
	// and what of it is in memory. If nil, nothing does.
	hosts           *limit.Hosts
	limiter, memory *limit.Pool

	places   []*place
	tokens   map[string]string // of callers, by organisation
	headers  map[string]string // those for headers
	accounts []*account
	naming   proxy.Naming

	metrics *prometheus.Registry
	pulls   *proxy.Metrics
	door    proxy.Live
	base    string
	node    *node
	// running is held while a request runs: a restart waits for those in flight, and those
	// wait for it whose client has left before they were read.
	running sync.RWMutex
	fleet   *member // nil: the node is alone
}

// node is what a restart takes away.
type node struct {
	cache *cache.Cache
	lines map[*place]*upstream.Registry
	leave func() // the fleet
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t: t, clock: &clock{}, dir: ocitest.MemoryDir(t), key: credential.NewKey(), log: &logBook{},
		tokens: map[string]string{}, headers: map[string]string{},
	}
	w.measure()
	return w
}

func (w *world) measure() {
	w.metrics = prometheus.NewRegistry()
	w.pulls = proxy.NewMetrics(proxy.MetricsOptions{Registerer: w.metrics})
}

// another is one more node in the same world: what is around it is there by now.
func (w *world) another() *world {
	w.t.Helper()
	o := &world{
		t: w.t, clock: w.clock, dir: ocitest.MemoryDir(w.t), key: credential.NewKey(), log: w.log, cache: w.cache, resolver: w.resolver,
		places: w.places, tokens: w.tokens, headers: w.headers, accounts: w.accounts, naming: w.naming,
	}
	o.measure()
	return o
}

// organisation makes one and the token of its callers.
func (w *world) organisation(name string) {
	w.tokens[name] = fmt.Sprintf("door-%x", sha256.Sum256([]byte(w.dir+name)))[:40]
	w.headers[name] = fmt.Sprintf("head-%x", sha256.Sum256([]byte(w.dir+name)))[:40]
}

// registry makes o a registry called name. More may change what the node knows.
func (w *world) registry(name, owner string, o ocitest.Options, more ...func(*place)) *place {
	w.t.Helper()
	o.Now = w.clock.now
	return w.add(name, owner, ocitest.New(w.t, o), more...)
}

// add makes r, which goes by the world's clock, a registry called name.
func (w *world) add(name, owner string, r *ocitest.Registry, more ...func(*place)) *place {
	p := &place{name: name, owner: owner, kind: dialect.Generic, url: r.URL(), reg: r, tokens: []string{r.TokenURL()}}
	for _, m := range more {
		m(p)
	}
	w.places = append(w.places, p)
	return p
}

func uniform(p *place) { p.uniform = true }

func kind(k string) func(*place) { return func(p *place) { p.kind = k } }

// account gives organisation one at p, and lets its user there read repos.
func (w *world) account(organisation, name string, p *place, repos ...string) *account {
	a := &account{name: name, organisation: organisation, registry: p.name}
	a.set("user-"+organisation+"-"+name, "pass-"+organisation+"-"+name+"-0")
	if p.reg != nil {
		p.reg.AddUser(a.user, a.password, repos...)
	}
	w.accounts = append(w.accounts, a)
	return a
}

// start opens the node's socket. It ends with the test.
func (w *world) start() {
	w.t.Helper()
	w.open()
	l, err := new(net.ListenConfig).Listen(w.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	srv := proxy.Server(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.running.RLock()
		defer w.running.RUnlock()
		w.door.ServeHTTP(rw, r)
	}), slog.New(w.log))
	var served sync.WaitGroup
	served.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			w.t.Errorf("serving: %v", err)
		}
	})
	w.base = "http://" + l.Addr().String()
	w.t.Cleanup(func() {
		_ = srv.Close()
		served.Wait()
		w.running.Lock()
		defer w.running.Unlock()
		w.close()
	})
}

// open makes what serves, on the folder as it is.
func (w *world) open() {
	w.t.Helper()
	o := w.cache
	o.Dir, o.Now, o.Log = w.dir, w.clock.now, slog.New(w.log)
	leave := func() {}
	if w.fleet != nil {
		o.Fleet, leave = w.fleet.join(w)
	}
	c, err := cache.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.node = &node{cache: c, lines: map[*place]*upstream.Registry{}, leave: leave}
	for _, p := range w.places {
		w.node.lines[p] = w.line(p)
	}
	w.configure()
}

func (w *world) close() {
	for _, l := range w.node.lines {
		l.Close()
	}
	w.node.leave() // before the cache, whose files it reads
	if err := w.node.cache.Close(); err != nil {
		w.t.Error(err)
	}
}

// restart ends the node cleanly and opens it again.
func (w *world) restart() {
	w.t.Helper()
	w.running.Lock()
	defer w.running.Unlock()
	w.close()
	w.open()
}

func (w *world) origin(p *place) oci.Origin {
	scheme, host, _ := strings.Cut(p.url, "://")
	return oci.Origin{Owner: p.owner, Scheme: scheme, Host: host}
}

func (w *world) line(p *place) *upstream.Registry {
	w.t.Helper()
	l, err := upstream.New(w.options(p))
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) options(p *place) upstream.Options {
	kind, _ := dialect.TypeNamed(p.kind) // the kinds here are there
	o := upstream.Options{
		Name: p.name, Origin: w.origin(p), Type: kind, Resolver: w.resolver, Hosts: w.hosts,
		Logger: slog.New(w.log), Now: w.clock.now, TokenEndpoints: p.tokens,
	}
	if p.reg != nil {
		o.CAs = p.reg.CertPool()
	}
	switch u, err := url.Parse(p.url); {
	case p.strict && p.owner == "" && err == nil: // the operator wrote the endpoint down, and nothing else
		o.Named = []*url.URL{u}
	case !p.strict:
		o.AllowPrivate = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	return o
}

// configure puts organisations, accounts and names as they are now in force, as
// a changed configuration does.
func (w *world) configure() {
	w.t.Helper()
	n := w.node
	var entries []credential.Entry
	for _, a := range w.accounts {
		for _, p := range w.places {
			if p.name == a.registry && (p.owner == "" || p.owner == a.organisation) {
				entries = append(entries, credential.Entry{
					Name: a.name, Organisation: a.organisation, Registry: p.name, Origin: w.origin(p),
					Repositories: a.repositories, Source: credential.SourceFunc(a.login),
				})
			}
		}
	}
	creds, err := credential.NewTable(credential.TableOptions{
		Entries: entries, Key: w.key, CheckEvery: time.Nanosecond, Now: w.clock.now, Logger: slog.New(w.log),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	var specs []*registry.Spec
	places := map[*registry.Spec]*place{}
	for _, p := range w.places {
		spec := w.spec(p)
		specs, places[spec] = append(specs, spec), p
	}
	router, err := proxy.NewRouter(specs)
	if err != nil {
		w.t.Fatal(err)
	}
	var known []caller.Organisation
	for name, token := range w.tokens {
		known = append(known, caller.Organisation{Name: name, Tokens: []caller.Token{
			{Name: "only", SHA256: caller.HashToken(secret.New(token))},
			{Name: "header", SHA256: caller.HashToken(secret.New(w.headers[name])), ForHeader: true},
		}})
	}
	callers, err := caller.NewTable(known, w.clock.now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.door.Set(proxy.New(proxy.Options{
		Accounts: func(organisation string, r *registry.Spec) []string { return creds.Accounts(organisation, r.Name) },
		Router:   router, Callers: callers, Naming: w.naming, Logger: slog.New(w.log), Metrics: w.pulls, Limiter: w.limiter, Memory: w.memory,
		Sources: func(c caller.Caller, r *registry.Spec) (oci.Source, error) {
			return n.source(w, creds, c, places[r]), nil
		},
	}))
}

func (w *world) spec(p *place) *registry.Spec {
	s := &registry.Spec{Name: p.name, Organisation: p.owner, Origin: w.origin(p), Place: registry.Place{Type: registry.Type(p.kind)}}
	s.UniformView, s.AnonymousFallback = p.uniform, p.uniform
	if p.object {
		s.Access = registry.AccessObject
	}
	if p.keep {
		s.OnNotFound = registry.Keep
	}
	return s
}

// source is a registry as the caller may see it, through the cache.
func (n *node) source(w *world, creds *credential.Table, c caller.Caller, p *place) oci.Source {
	line := n.lines[p]
	shared := func(ctx context.Context, repo string) (*credential.Credential, error) {
		return creds.Lookup(ctx, "", "", p.name, repo)
	}
	u := cache.Upstream{
		Spec: w.spec(p), Organisation: c.Organisation,
		Shared: line.As(upstream.Identity{Payer: c.Organisation, Credential: shared}),
		As: line.As(upstream.Identity{Organisation: c.Organisation, Credential: func(ctx context.Context, repo string) (*credential.Credential, error) {
			own, err := creds.Lookup(ctx, c.Organisation, c.Account, p.name, repo)
			if own != nil || err != nil {
				return own, err
			}
			return shared(ctx, repo)
		}}),
	}
	if w.fleet != nil {
		u.Scopes = w.fleet.scopes(creds, c, w.origin(p), p.name)
	}
	return n.cache.Through(u)
}

// client pulls as one organisation.
type client struct {
	w              *world
	user, password string
	http           *http.Client
}

// as is a client that logs in as an organisation or organisation+account.
func (w *world) as(user string) *client {
	w.t.Helper()
	organisation, _, _ := strings.Cut(user, "+")
	return w.with(user, w.tokens[organisation])
}

func (w *world) with(user, password string) *client {
	w.t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &client{w: w, user: user, password: password, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is what came back.
type answer struct {
	what   string
	status int
	header http.Header
	body   []byte
	err    error // why the body did not end well, or why there is no answer
}

func (a answer) String() string {
	return fmt.Sprintf("%s: %d, %d bytes %.400q, error %v", a.what, a.status, len(a.body), a.body, a.err)
}

// everything is all that the client could read, but the body's length.
func (a answer) everything() []byte {
	var b bytes.Buffer
	_ = a.header.Write(&b) // into memory
	b.Write(a.body)
	return b.Bytes()
}

func (c *client) get(path string, header ...string) answer {
	return c.do(http.MethodGet, path, header...)
}

func (c *client) head(path string, header ...string) answer {
	return c.do(http.MethodHead, path, header...)
}

// do asks, and reads the whole answer. header are names and values.
func (c *client) do(method, path string, header ...string) answer {
	return c.within(context.WithoutCancel(c.w.t.Context()), method, path, header...)
}

func (c *client) within(ctx context.Context, method, path string, header ...string) answer {
	a := answer{what: fmt.Sprintf("%s %s %v as %s", method, path, header, c.user)}
	req, err := http.NewRequestWithContext(ctx, method, c.w.base+path, http.NoBody)
	if err != nil {
		a.err = err
		return a
	}
	if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	a.status, a.header = resp.StatusCode, resp.Header
	a.body, a.err = io.ReadAll(resp.Body)
	return a
}

// logBook keeps every line at every level.
type logBook struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (b *logBook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logBook) WithGroup(string) slog.Handler            { return b }
func (b *logBook) WithAttrs(attrs []slog.Attr) slog.Handler {
	b.write(fmt.Sprint(attrs))
	return b
}

func (b *logBook) Handle(ctx context.Context, r slog.Record) error {
	var line bytes.Buffer
	err := slog.NewTextHandler(&line, &slog.HandlerOptions{Level: slog.LevelDebug}).Handle(ctx, r)
	b.write(line.String())
	return err
}

func (b *logBook) write(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines.WriteString(s + "\n")
}

// take gives what was logged since the last call.
func (b *logBook) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.lines.Reset()
	return b.lines.String()
}

// nobodyWaits is a context for what has no test.
func nobodyWaits() context.Context { return context.Background() }
