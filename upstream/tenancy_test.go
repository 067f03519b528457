package upstream

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/cache"
	"berth/cache/proof"
	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/internal/registry"
	"berth/oci"
)

// tenancy is a node in fake time, a registry, and who pulls there: acme and bolt, whose
// right to an image stands, initech, which has no account, and globex, which loses its
// right and does whatever may help it, or hurt the others.
type tenancy struct {
	t      *testing.T
	rand   *rand.Rand // of what others do
	evil   *rand.Rand // of what globex does
	sky    *sky
	up     *ocitest.Registry
	memory *ocitest.MemoryNet
	times  proof.Times
	rate   limit.Rate
	bytes  *limit.Pool // of manifests; nil: any number
	folder string

	node  *Registry
	cache *cache.Cache
	// secrets of globex so far: with a new one nothing is proven.
	secrets          int
	rotated, refused time.Time // when globex was last told no
	revoked          bool
	asked            []*during            // all that anybody has asked for
	pulled           []during             // what others have pulled
	paged            map[string]time.Time // when others pulled while everybody got pages
	large            oci.Digest

	image, public ocitest.Pushed
	fresh         int            // images that were made to be pulled once
	mischief      sync.WaitGroup // what globex has under way, which is
	busy          atomic.Int64   // as much
	steps         []string
	counts        map[string]int
}

// sky is what the registry, and whatever stands before it, does now. It writes down what
// each request met.
type sky struct {
	mu   sync.Mutex
	rand *rand.Rand

	outage, pages bool      // for everybody: no answer, a page
	page          bool      // for globex
	hangs, limits bool      // for globex: its own repository, its account
	ownOnly       bool      // the limit is one of globex's own repository
	budget        int       // requests of globex until the registry limits it
	until         time.Time // when that limit ends
	calm, plain   time.Time // since when everybody, and globex, is answered plainly about the image
	met           map[int]met
	latency       time.Duration
}

// met is what a request got in place of the registry's own answer.
type met uint8

const (
	itsAnswer met = iota
	silence
	riddle
)

const (
	ofImage  = "acme/app"
	ofPublic = "lib/pub"
	ofGlobex = "globex/own"
)

func concerns(r ocitest.Request, repo string) bool {
	return r.Repo == repo || r.Kind == ocitest.Token && strings.Contains(strings.Join(r.Scopes, " "), ":"+repo+":")
}

func (s *sky) fault(r ocitest.Request) ocitest.Fault {
	time.Sleep(s.latency)
	s.mu.Lock()
	defer s.mu.Unlock()
	what, f := s.meet(r, r.User == "globex-bot")
	s.met[r.ID] = what
	return f
}

func (s *sky) meet(r ocitest.Request, globex bool) (met, ocitest.Fault) {
	own := concerns(r, ofGlobex)
	switch {
	case s.outage:
		return silence, []ocitest.Fault{ocitest.Drop(), ocitest.Status(http.StatusServiceUnavailable), ocitest.Silence()}[s.rand.IntN(3)]
	case s.pages || s.page && globex:
		status := []int{200, 403, 401}
		if r.Kind == ocitest.Token { // whose 401 is a no, however it is written
			status = status[:2]
		}
		return riddle, ocitest.Fault{Status: status[s.rand.IntN(len(status))], Body: []byte("<html>sign in"), Header: http.Header{"Content-Type": {"text/html"}}}
	case s.hangs && own:
		return silence, ocitest.Silence()
	case globex && s.limited(own):
		return riddle, ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down", "Retry-After", strconv.Itoa(1+int(time.Until(s.until).Seconds())))
	}
	return itsAnswer, ocitest.Fault{}
}

// limited says whether the registry answers a request of globex with a limit.
func (s *sky) limited(own bool) bool {
	if s.budget--; s.limits && s.budget < 0 && s.until.Before(time.Now()) {
		s.until, s.budget = time.Now().Add(time.Duration(1+s.rand.IntN(120))*time.Minute), 5
	}
	return time.Now().Before(s.until) && (own || !s.ownOnly)
}

// change changes the weather.
func (s *sky) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stormy, odd := s.outage || s.pages, s.page || s.limits && !s.ownOnly
	f()
	if stormy && !s.outage && !s.pages {
		s.calm = time.Now()
	}
	if odd && !s.page && !(s.limits && !s.ownOnly) {
		s.plain = time.Now()
	}
}

// isCalm says whether everybody is answered plainly, for long enough to be known here.
func (s *sky) isCalm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.outage && !s.pages && time.Since(s.calm) > breakerForgets
}

// isPlain is the same for globex, about acme's image.
func (s *sky) isPlain() bool {
	calm := s.isCalm()
	s.mu.Lock()
	defer s.mu.Unlock()
	free := s.ownOnly || !s.limits && time.Since(s.until) > 0
	return calm && !s.page && free && time.Since(s.plain) > breakerForgets
}

// cooling says whether globex's own repository answers with a limit, which the node knows.
func (s *sky) cooling() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until)
}

// at is what a request met.
func (s *sky) at(id int) met {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.met[id]
}

// breakerForgets is longer than it takes the node to find out that a registry is back.
const breakerForgets = 30 * time.Second

// newTenancy is one by seed, in which changes may change what organisations may send, or how
// long what is worth something.
func newTenancy(t *testing.T, seed uint64, changes ...func(*tenancy)) *tenancy {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	w := &tenancy{
		t: t, rate: limit.Rate{PerSecond: 20, Burst: 500}, rand: r, evil: rand.New(rand.NewPCG(seed, 3)), memory: ocitest.NewMemoryNet(), folder: t.TempDir(), counts: map[string]int{}, paged: map[string]time.Time{},
		sky: &sky{rand: rand.New(rand.NewPCG(seed, 2)), budget: 5, met: map[int]met{}, ownOnly: r.IntN(2) == 0, latency: 20 * time.Millisecond},
		times: proof.Times{
			AccessTTL: []time.Duration{5 * time.Minute, 30 * time.Second}[r.IntN(2)],
			Grace:     []time.Duration{24 * time.Hour, 3 * time.Hour}[r.IntN(2)],
			Doubt:     []time.Duration{time.Hour, 10 * time.Minute, -1}[r.IntN(3)],
		},
	}
	for _, change := range changes {
		change(w)
	}
	w.up = ocitest.New(t, ocitest.Options{
		Net: w.memory, Auth: ocitest.Bearer, LiveRights: true, TokenTTL: []time.Duration{5 * time.Minute, 48 * time.Hour}[r.IntN(2)],
		Refusal: []ocitest.Refusal{ocitest.RefuseForbidden, ocitest.RefuseNotFound, ocitest.RefuseAtToken}[r.IntN(3)],
		Fault:   w.sky.fault,
	})
	w.image = w.up.AddImage(ofImage, "1", ocitest.Image{Index: true, Layers: []int64{3000, 40_000}})
	w.public = w.up.AddImage(ofPublic, "1", ocitest.Image{Layers: []int64{2000}, Seed: 1})
	w.large = w.up.AddNoise(ofGlobex, 3, 1<<20)
	w.up.SetPrivate(ofImage, true)
	w.up.SetPrivate(ofGlobex, true)
	for _, who := range []string{"acme", "bolt"} {
		w.up.AddUser(who+"-bot", who+"-secret", "acme/**")
	}
	w.grant()
	w.start()
	return w
}

// grant tells the registry what globex may have, and its password.
func (w *tenancy) grant() {
	repos := []string{ofGlobex}
	if !w.revoked {
		repos = append(repos, "acme/**")
	}
	w.up.AddUser("globex-bot", w.password(), repos...)
}

func (w *tenancy) password() string { return fmt.Sprint("globex-secret", w.secrets) }

func (w *tenancy) start() {
	w.t.Helper()
	var err error
	if w.cache, err = cache.New(cache.Options{Dir: w.folder, Times: w.times}); err != nil {
		w.t.Fatal(err)
	}
	hosts := &limit.Hosts{Connections: 16, Rate: w.rate}
	w.node, err = New(Options{
		Name: "registry.test", Origin: w.up.Origin(), Hosts: hosts, Memory: w.bytes, AllowPrivate: loopback,
		TokenEndpoints: []string{w.up.TokenURL()},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.node.conns.dial = w.memory.DialContext
}

func (w *tenancy) stop() {
	w.t.Helper()
	w.mischief.Wait()
	if err := w.cache.Close(); err != nil {
		w.t.Error(err)
	}
	w.node.Close()
}

// as is the registry through the cache.
func (w *tenancy) as(organisation string) oci.Source {
	u := cache.Upstream{
		Spec: &registry.Spec{Name: "registry.test", Origin: w.up.Origin()}, Organisation: organisation,
		As: w.node.As(Identity{Payer: organisation}), Shared: w.node.As(Identity{Payer: organisation}),
	}
	u.Spec.UniformView, u.Spec.AnonymousFallback = true, true
	switch organisation {
	case "globex":
		u.As = w.node.As(as(organisation, organisation+"-bot", w.password()))
	case "acme", "bolt":
		u.As = w.node.As(as(organisation, organisation+"-bot", organisation+"-secret"))
	}
	return w.cache.Through(u)
}

func (w *tenancy) say(format string, args ...any) {
	now := time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Round(time.Second)
	w.steps = append(w.steps, fmt.Sprintf("%v ", now)+fmt.Sprintf(format, args...))
}

func (w *tenancy) fail(format string, args ...any) {
	w.t.Helper()
	w.steps = append(w.steps, "", fmt.Sprintf("%+v", w.times))
	for _, r := range w.up.Requests(ocitest.Match{Where: func(r ocitest.Request) bool { return concerns(r, ofImage) }}) {
		w.steps = append(w.steps, fmt.Sprintf("%v %s, %d", time.Since(r.Start), r, w.sky.at(r.ID)))
	}
	w.t.Errorf(format+"\n%s", append(args, strings.Join(w.steps, "\n"))...)
}
