package isolation_test

import (
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// bend is a way to a registry that can be bent: then what is there speaks no TLS.
type bend struct {
	net.Listener

	bent  atomic.Bool
	mu    sync.Mutex
	conns []net.Conn
	all   sync.WaitGroup
}

// newBend leads to r.
func newBend(t *testing.T, r *ocitest.Registry) *bend {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bend{Listener: l}
	b.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.all.Go(func() { b.serve(t, c, r.Host()) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.cut()
		b.all.Wait()
	})
	return b
}

func (b *bend) serve(t *testing.T, c net.Conn, host string) {
	t.Helper()
	defer c.Close()
	if b.bent.Load() {
		_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n") // to whoever listens
		return
	}
	there, err := new(net.Dialer).Dial("tcp", host)
	if err != nil {
		return
	}
	defer there.Close()
	b.mu.Lock()
	b.conns = append(b.conns, c, there)
	b.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(there, c); _ = there.Close() })
	_, _ = io.Copy(c, there)
	_ = c.Close()
	both.Wait()
}

// cut ends what is open.
func (b *bend) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
}

// Whose proof there is when upstream gives its answer.
const (
	ownFresh   = "own, fresh"
	ownRecent  = "own, half an hour old"
	ownOld     = "own, two hours old"
	ownStale   = "own, older than grace"
	others     = "another's"
	ownRotated = "own, with the secret before"
	none       = "none"
)

// TestGrace is the table of what upstream says and what was proven before. A
// fresh proof asks nothing. A refusal counts at once, trouble lets an own proof
// with the same secret stand in until grace is over, an answer that is neither yes
// nor no lets it until doubt is over, and nothing else does.
func TestGrace(t *testing.T) {
	t.Parallel()
	const refused, missing, stale = http.StatusForbidden, http.StatusNotFound, http.StatusOK
	soon := []string{"Retry-After", "30"}
	outcomes := map[string]struct {
		fault ocitest.Fault
		token bool
		old   int // for an own old proof
		other int // for everything else but a fresh one
		// recent is for an own proof that is not older than doubt; 0: like old.
		recent int
	}{
		"401":                {ocitest.Problem(401, "UNAUTHORIZED", "no"), false, refused, refused, 0},
		"403":                {ocitest.Problem(403, "DENIED", "no"), false, refused, refused, 0},
		"404 name":           {ocitest.Problem(404, "NAME_UNKNOWN", "no"), false, missing, missing, 0},
		"404 manifest":       {ocitest.Problem(404, "MANIFEST_UNKNOWN", "no"), false, missing, missing, 0},
		"400":                {ocitest.Status(400), false, 503, 503, stale},
		"405":                {ocitest.Status(405), false, 503, 503, stale},
		"405 denied":         {ocitest.Problem(405, "DENIED", "no"), false, refused, refused, 0},
		"409":                {ocitest.Status(409), false, 503, 503, stale},
		"a page":             {page(200), false, 503, 503, stale},
		"a page with 403":    {page(403), false, refused, refused, stale},
		"sent elsewhere":     {ocitest.Status(302, "Location", "http://login.example/"), false, 503, 503, stale},
		"511":                {ocitest.Status(511), false, 503, 503, stale},
		"429":                {ocitest.Problem(429, "TOOMANYREQUESTS", "slow", soon...), false, 429, 429, stale},
		"500":                {ocitest.Status(500, soon...), false, stale, 503, 0},
		"503":                {ocitest.Status(503, soon...), false, stale, 503, 0},
		"timeout":            {ocitest.Silence(), false, stale, 503, 0},
		"reset":              {ocitest.Drop(), false, stale, 503, 0},
		"TLS":                {ocitest.Fault{}, false, stale, 503, 0},
		"401 at the tokens":  {ocitest.Status(401), true, refused, refused, 0},
		"403 at the tokens":  {ocitest.Problem(403, "DENIED", "no"), true, refused, refused, 0},
		"500 at the tokens":  {ocitest.Status(500, soon...), true, stale, 503, 0},
		"400 at the tokens":  {ocitest.Status(400), true, 503, 503, stale},
		"page at the tokens": {page(200), true, 503, 503, stale},
		"429 at the tokens":  {ocitest.Problem(429, "TOOMANYREQUESTS", "slow", soon...), true, 429, 429, stale},
	}
	run, wait := ocitest.Overlap(t, 8)
	defer wait()
	names := slices.Collect(maps.Keys(outcomes))
	last := slices.Index(names, "timeout") // it takes longest, so it begins first
	names[0], names[last] = names[last], names[0]
	for _, name := range names {
		o := outcomes[name]
		for _, proof := range []string{ownFresh, ownRecent, ownOld, ownStale, others, ownRotated, none} {
			want := o.other
			switch proof {
			case ownFresh:
				want = http.StatusOK
			case ownOld:
				want = o.old
			case ownRecent:
				want = cmp.Or(o.recent, o.old)
			}
			run(name+"/"+proof, func(t *testing.T) {
				g := newGraceWorld(t)
				g.prepare(proof)
				if name == "TLS" {
					g.way.bent.Store(true)
					g.way.cut()
				} else {
					g.inject(o.fault, o.token)
				}
				g.ask(name, proof, want, !o.token && name != "TLS" && proof != ownFresh)
			})
		}
	}
}

// page is an answer that is for people.
func page(status int) ocitest.Fault {
	return ocitest.Fault{Status: status, Body: []byte("<html>sign in"), Header: http.Header{"Content-Type": {"text/html"}}}
}

// graceWorld is two organisations with one registry.
type graceWorld struct {
	*world

	t    *testing.T
	p    *place
	way  *bend
	acme *account
	img  ocitest.Pushed
}

const acmeRepo = "acme/app"

func newGraceWorld(t *testing.T) *graceWorld {
	t.Helper()
	w := newWorld(t)
	g := &graceWorld{world: w, t: t}
	g.p = w.registry("reg.example", "", ocitest.Options{TLS: true, Auth: ocitest.Bearer, Private: true, LiveRights: true})
	g.way = newBend(t, g.p.reg)
	g.p.url = "https://" + g.way.Addr().String()
	g.img = g.p.reg.AddImage(acmeRepo, "v1", ocitest.Image{Layers: []int64{9000}})
	for _, name := range []string{"acme", "bolt"} {
		w.organisation(name)
		a := w.account(name, "main", g.p, acmeRepo)
		if name == "acme" {
			g.acme = a
		}
	}
	w.start()
	return g
}

func (g *graceWorld) prepare(proof string) {
	g.t.Helper()
	pull := func(who string) {
		if a := g.as(who).pull("reg.example/"+acmeRepo, g.img, 0); !a.ok() {
			g.t.Fatal(a)
		}
	}
	switch proof {
	case ownFresh:
		pull("acme")
	case ownRecent:
		pull("acme")
		g.clock.forward(30 * time.Minute)
	case ownOld:
		pull("acme")
		g.clock.forward(2 * time.Hour)
	case ownStale:
		pull("acme")
		g.clock.forward(25 * time.Hour)
	case others:
		pull("bolt")
	case ownRotated:
		pull("acme")
		g.p.reg.SetPassword("user-acme-main", "pass-next")
		g.acme.set("user-acme-main", "pass-next")
		// The first who comes finds that it is another. A list proves nothing.
		if a := g.as("acme").get("/v2/reg.example/" + acmeRepo + "/tags/list"); !a.ok() {
			g.t.Fatal(a)
		}
	}
	if proof != ownFresh {
		g.p.reg.ExpireTokens()
	}
}

func (g *graceWorld) inject(f ocitest.Fault, token bool) *ocitest.Injection {
	return g.p.reg.Inject(ocitest.Match{Where: func(r ocitest.Request) bool {
		return (r.Kind == ocitest.Token) == token && r.Kind != ocitest.Ping && (token || r.Header.Get("Authorization") != "")
	}}, 0, f)
}

// ask looks at each kind of object, and whether the registry was asked. A
// refusal goes on after the trouble has begun: what was refused once stays so.
func (g *graceWorld) ask(name, proof string, want int, asked bool) {
	g.t.Helper()
	g.p.reg.Forget()
	c := g.as("acme")
	p := g.img.Platforms[0]
	var all sync.WaitGroup
	for _, path := range []string{"/manifests/" + p.Manifest.String(), "/blobs/" + p.Layers[0].String(), "/manifests/v1"} {
		// A silent registry is asked for the tag and then for the manifest, which
		// together takes longer than a client waits.
		if name == "timeout" && strings.HasSuffix(path, "v1") && (proof == ownOld || proof == ownRecent) {
			continue
		}
		all.Go(func() {
			a := c.get("/v2/reg.example/" + acmeRepo + path)
			status := want
			if name == "404 manifest" && strings.Contains(path, "blobs") && proof != ownFresh {
				status = http.StatusNotFound
			}
			if a.err != nil || a.status != status {
				g.t.Errorf("%d instead of %s", status, a)
			}
			if stale := a.header.Get("Warning") != ""; stale != (a.status == http.StatusOK && (proof == ownOld || proof == ownRecent)) {
				g.t.Errorf("warning %q: %s", a.header.Get("Warning"), a)
			}
			var doc any
			if a.status >= 400 && json.Unmarshal(a.body, &doc) != nil {
				g.t.Errorf("no error document: %s", a)
			}
		})
	}
	all.Wait()
	n := g.p.reg.Count(ocitest.Match{Server: ocitest.RegistryServer})
	if proof == ownFresh && n > 0 || asked && n == 0 {
		g.t.Errorf("the registry was asked %d times", n)
	}
}

// After a refusal, trouble at the registry revives nothing.
func TestDenialOutlivesTrouble(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]ocitest.Fault{
		"401": ocitest.Problem(401, "UNAUTHORIZED", "no"), "403": ocitest.Problem(403, "DENIED", "no"), "404": ocitest.Problem(404, "NAME_UNKNOWN", "no"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGraceWorld(t)
			g.prepare(ownOld)
			c := g.as("acme")
			path := "/v2/reg.example/" + acmeRepo
			in := g.inject(refusal, false)
			if a := c.get(path + "/manifests/" + g.img.Digest.String()); a.status != 403 && a.status != 404 {
				t.Fatal(a)
			}
			in.Remove()
			g.clock.forward(6 * time.Second) // the 404 itself is forgotten
			in = g.inject(ocitest.Status(503, "Retry-After", "30"), false)
			for _, restart := range []bool{false, true} {
				if restart {
					g.restart()
				}
				for _, what := range []string{"/manifests/v1", "/manifests/" + g.img.Digest.String(), "/blobs/" + g.img.Platforms[0].Layers[0].String()} {
					if a := c.get(path + what); a.status != http.StatusServiceUnavailable {
						t.Errorf("restarted %v: %s", restart, a)
					}
				}
			}
			in.Remove()
			if a := c.pull("reg.example/"+acmeRepo, g.img, 0); !a.ok() {
				t.Error(a) // and a right that is given back counts
			}
		})
	}
}

// A mistyped tag, a signature that is not there and a digest that nobody has
// seen cost nobody their grace.
func TestMissingCostsNoGrace(t *testing.T) {
	t.Parallel()
	g := newGraceWorld(t)
	g.prepare(ownOld)
	c := g.as("acme")
	path := "/v2/reg.example/" + acmeRepo
	unseen := "sha256:" + strings.Repeat("ab", 32)
	for _, what := range []string{"/manifests/lates", "/manifests/sha256-" + g.img.Digest.Encoded() + ".sig", "/manifests/" + unseen, "/blobs/" + unseen} {
		if a := c.get(path + what); a.status != http.StatusNotFound {
			t.Error(a)
		}
	}
	g.inject(ocitest.Status(503, "Retry-After", "30"), false)
	if a := c.pull("reg.example/"+acmeRepo, g.img, 0); !a.ok() {
		t.Error(a)
	}
}
