package isolation_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/auth/caller"
	"berth/auth/credential"
	"berth/cache"
	"berth/fleet"
	"berth/fleet/bucket"
	"berth/fleet/coordinator"
	"berth/fleet/seal"
	"berth/internal/ocitest/engines"
	"berth/internal/secret"
	"berth/oci"
)

// squadron is what nodes share: both engines, and the keys to what lies there.
type squadron struct {
	t     testing.TB
	s3    *engines.S3
	redis *engines.Redis
	keys  map[string]seal.Key // by organisation; "" is the fleet's own

	read atomic.Int64 // parts that came out of the bucket

	mu     sync.Mutex
	scopes map[string]scope // all that were ever used, by their ID

	// What lookAtFleet has learned, and seen.
	names  map[string]shared
	opened map[string]bool
}

// scope is whose a scope of the fleet is.
type scope struct {
	seal.Scope

	organisation, origin, user, password string // empty: everybody's
}

// shared is an object as the fleet names it.
type shared struct {
	scope

	kind   oci.Kind
	digest oci.Digest
	size   int64
}

// member is one node in a squadron, with the fleet keys of the organisations that it hosts.
type member struct {
	*squadron

	name  string
	hosts []string
}

const fleetPassword = "password-of-a-node-in-the-fleet"

// newSquadron makes the harbour's node one of three. Each has keys of some organisations,
// and no two the same.
func newSquadron(h *harbour) *squadron {
	h.t.Helper()
	s := &squadron{
		t: h.t, s3: engines.StartS3(h.t), keys: map[string]seal.Key{},
		scopes: map[string]scope{}, names: map[string]shared{}, opened: map[string]bool{},
	}
	for _, name := range append([]string{""}, h.names...) {
		s.keys[name] = seal.NewKey([seal.KeySize]byte(h.bytes(seal.KeySize)))
	}
	h.nodes = append(h.nodes, h.another(), h.another())
	var users []string
	for i, n := range h.nodes {
		n.fleet = &member{s, fmt.Sprint("node-", i), nil}
		users = append(users, strings.Replace(coordinator.ACL(n.fleet.name), "PASSWORD", fleetPassword, 1))
		for j, name := range h.names {
			if (i+j)%3 > 0 {
				n.fleet.hosts = append(n.fleet.hosts, name)
			}
		}
	}
	s.redis = engines.StartRedis(h.t, users...)
	s.use(scope{Scope: seal.Public(s.keys[""])})
	return s
}

// use notes that there is such a scope.
func (s *squadron) use(used scope) seal.Scope {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scopes[used.ID()] = used
	return used.Scope
}

// join makes what a node of the fleet has of its own.
func (m *member) join(w *world) (tier *fleet.Tier, leave func()) {
	m.t.Helper()
	b, err := bucket.New(bucket.Options{
		Endpoint: m.s3.Endpoint, Name: m.s3.Bucket,
		AccessKey: func(context.Context) (bucket.AccessKey, error) {
			return bucket.AccessKey{ID: m.s3.AccessKey, Secret: secret.New(m.s3.Secret)}, nil
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	c := m.coordinator(m.name)
	tier = fleet.New(fleet.Options{
		Bucket: counted{b, &m.read}, Coordinator: c, Log: slog.New(w.log),
		Public: func() []seal.Scope { return []seal.Scope{seal.Public(m.keys[""])} },
	})
	return tier, func() {
		tier.Close()
		c.Close()
		b.Close()
	}
}

// counted counts what is read.
type counted struct {
	fleet.Bucket

	read *atomic.Int64
}

func (b counted) Get(ctx context.Context, key string, into []byte) ([]byte, error) {
	body, err := b.Bucket.Get(ctx, key, into)
	if err == nil {
		b.read.Add(1)
	}
	return body, err
}

func (s *squadron) coordinator(node string) *coordinator.Coordinator {
	s.t.Helper()
	c, err := coordinator.New(coordinator.Options{
		Address: s.redis.Addr, Node: node, Zone: "here",
		Password: func() (secret.Text, error) { return secret.New(fleetPassword), nil },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// scopes is what the program gives the cache: the scope of the account that a caller has,
// where its organisation's key is.
func (m *member) scopes(creds *credential.Table, c caller.Caller, origin oci.Origin, registry string) func(context.Context, string) []seal.Scope {
	if !slices.Contains(m.hosts, c.Organisation) {
		return nil
	}
	return func(ctx context.Context, repo string) []seal.Scope {
		own, err := creds.Lookup(ctx, c.Organisation, c.Account, registry, repo)
		if err != nil || own.Shared() {
			return nil
		}
		return []seal.Scope{m.private(c.Organisation, origin.Dir(), own.Username.Reveal(), own.ScopeSecret().Reveal())}
	}
}

func (s *squadron) private(organisation, origin, user, password string) seal.Scope {
	return s.use(scope{seal.Private(s.keys[organisation], origin, user, password), organisation, origin, user, password})
}

// openWith opens a part with everything of its scope but the key, which is key.
func (s scope) openWith(key seal.Key, w seal.Writing, name string, part int, size int64, sealed []byte) ([]byte, error) {
	return seal.Private(key, s.origin, s.user, s.password).Open(nil, w, name, part, size, sealed)
}

// lookAtFleet looks through both engines as whoever owns them can. Nothing private is
// there in the clear; what is sealed is known, opens with no other organisation's key,
// and holds nothing of what its organisation never had a right to.
func (m *model) lookAtFleet(s *squadron) (troubles []string) {
	objects := s.objects()
	keys := strings.Fields(s.redis.Do("keys", "*"))
	s.learn(m)
	for key, body := range objects {
		troubles = append(troubles, m.clear("the bucket: "+key, key, body)...)
		if key == "v1/probe" && len(bytes.Trim(body, "\x00")) == 0 {
			continue // by it nodes find out whether the bucket can be read from
		}
		f := strings.Split(key, "/") // v1/NA/NAME/WRITING/PART
		part, w := 0, seal.Writing{}
		err := fmt.Errorf("%d names", len(f))
		if len(f) == 5 && f[0] == "v1" {
			part, err = strconv.Atoi(f[4])
		}
		if err == nil {
			w, err = seal.ParseWriting(f[3])
		}
		if err != nil {
			troubles = append(troubles, fmt.Sprintf("the bucket has something else: %s: %v", key, err))
			continue
		}
		troubles = append(troubles, m.unseal(s, key, f[2], w, part, 0, body)...)
	}
	for some := range slices.Chunk(keys, 100) {
		troubles = append(troubles, m.clear("the coordinator", strings.Join(some, " "), []byte(s.redis.Do(append([]string{"mget"}, some...)...)))...)
	}
	c := s.coordinator("node-0")
	defer c.Close()
	for _, key := range keys {
		f := strings.Split(key, ":") // berth:lease:ZONE:NAME, and the like
		name := f[len(f)-1]
		switch _, known := s.names[name]; {
		case f[1] == "slot":
		case !known:
			troubles = append(troubles, "the coordinator knows what is nobody's object: "+key)
		case f[1] == "node" && f[3] == seal.Everywhere:
			found, err := c.Look(m.t.Context(), coordinator.Object{Name: name, Everywhere: true})
			if err != nil {
				troubles = append(troubles, err.Error())
			}
			for _, w := range found.Writers {
				troubles = append(troubles, m.unseal(s, key, name, w.Writing, seal.Record, w.Size, w.Body)...)
			}
		}
	}
	return troubles
}

// learn names all that anybody may ask for, at every registry and in every scope.
func (s *squadron) learn(m *model) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[oci.Digest]int64{}
	for _, r := range m.repos {
		for _, all := range []map[oci.Digest][]byte{r.manifests, r.blobs} {
			for d, data := range all {
				known[d] = int64(len(data))
				known[digest.SHA512.FromBytes(data)] = int64(len(data))
			}
		}
	}
	for id, sc := range s.scopes {
		if s.opened[id] {
			continue
		}
		s.opened[id] = true
		for _, p := range m.places {
			origin := m.origin(p).Dir()
			if sc.origin != "" && sc.origin != origin {
				continue
			}
			for d, size := range known {
				for _, kind := range []oci.Kind{oci.Manifest, oci.Blob} {
					s.names[sc.Name(origin, kind, d)] = shared{sc, kind, d, size}
				}
			}
		}
	}
}

// objects are those of the bucket that were not seen yet.
func (s *squadron) objects() map[string][]byte {
	s.t.Helper()
	fresh := map[string][]byte{}
	root := os.DirFS(s.s3.Dir)
	err := fs.WalkDir(root, ".", func(key string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it has expired
			return nil
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(key, ".sgwtmp"): // what versitygw is just writing
			return fs.SkipDir
		case d.IsDir() || s.opened[key]:
			return nil
		}
		body, err := fs.ReadFile(root, key)
		s.opened[key], fresh[key] = true, body
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return fresh
}

// clear says what of anybody's can be read there without any key.
func (m *model) clear(where, key string, value []byte) (troubles []string) {
	for _, word := range m.words() {
		if strings.Contains(key, word) || bytes.Contains(value, []byte(word)) {
			troubles = append(troubles, fmt.Sprintf("%q is in the clear in %s", word, where))
		}
	}
	return troubles
}

// words are those that must not be in the clear anywhere.
func (m *model) words() []string {
	words := slices.Concat(m.secrets, m.names, []string{"CANARY", "team/app", "team/web"})
	for d := range m.private {
		words = append(words, d.Encoded())
	}
	return words
}

// unseal opens what is sealed as name, with its own key and with all others.
func (m *model) unseal(s *squadron, what, name string, w seal.Writing, part int, size int64, sealed []byte) (troubles []string) {
	o, ok := s.names[name]
	if !ok {
		return []string{what + " is nobody's object"}
	}
	if size == 0 {
		size = o.size
	}
	plain, err := o.Open(nil, w, name, part, size, sealed)
	if err != nil {
		return []string{fmt.Sprintf("%s of %q does not open: %v", what, o.organisation, err)}
	}
	for organisation, key := range s.keys {
		if organisation == o.organisation {
			continue
		}
		if _, err := o.openWith(key, w, name, part, size, sealed); err == nil {
			troubles = append(troubles, fmt.Sprintf("%s of %q opens with %q's key", what, o.organisation, organisation))
		}
		if _, err := seal.Public(key).Open(nil, w, name, part, size, sealed); err == nil {
			troubles = append(troubles, fmt.Sprintf("%s of %q opens as public with %q's key", what, o.organisation, organisation))
		}
	}
	for _, r := range m.repos {
		if r.canary != "" && !r.public && bytes.Contains(plain, []byte(r.canary)) && !m.ever[[3]string{o.organisation, r.at.name, r.name}] {
			troubles = append(troubles, fmt.Sprintf("%s of %q has bytes of %s in it", what, o.organisation, r))
		}
	}
	return troubles
}

// expire loses what is in one of the engines, or in both.
func (s *squadron) expire(m *model) {
	if m.rng.IntN(2) == 0 {
		s.redis.Do("flushall")
		return
	}
	all, err := os.ReadDir(s.s3.Dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range all {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.s3.Dir, e.Name())); err != nil {
			s.t.Logf("expiring %s: %v", e.Name(), err) // a part is just being written
		}
	}
}

// The same, with three nodes of a fleet, each of which has some organisations' keys.
// Nothing of anybody's is in the bucket or the coordinator but what was sealed for it.
func TestFleet_NothingCrosses(t *testing.T) {
	t.Parallel()
	n, seed := requests(t, 2000)
	h := newHarbour(t, seed)
	h.world.cache = cache.Options{MaxSize: 700 << 10, HotBytes: 64 << 10} // what was there yesterday is fetched again
	s := newSquadron(h)
	m := newModel(h)
	for _, node := range m.nodes {
		node.start()
	}
	for _, k := range s.keys {
		m.secrets = append(m.secrets, hex.EncodeToString([]byte(k.Reveal())), k.Reveal())
	}
	m.secrets = append(m.secrets, fleetPassword, s.s3.Secret)
	objects := 0
	m.ask(t, n, func() []string {
		troubles := m.lookAtFleet(s)
		objects = len(s.opened)
		if m.rng.IntN(4) == 0 {
			s.expire(m)
		}
		return troubles
	})
	t.Logf("%d scopes; %d of them and of objects were looked at; %d parts were read", len(s.scopes), objects, s.read.Load())
	if s.read.Load() < int64(n)/200 {
		t.Error("too few parts were read: this shows nothing")
	}
	for what, of := range map[string]func(shared) bool{
		"public":  func(o shared) bool { return o.organisation == "" },
		"private": func(o shared) bool { return o.organisation != "" },
	} {
		if !slices.ContainsFunc(s.seen(), of) {
			t.Errorf("nothing %s was shared: this shows nothing", what)
		}
	}
}

// seen are the objects that were opened.
func (s *squadron) seen() (all []shared) {
	for key := range s.opened {
		if f := strings.Split(key, "/"); len(f) == 5 {
			all = append(all, s.names[f[2]])
		}
	}
	return all
}

// Whatever leaks into an engine is seen.
func TestFleet_APlantedLeakIsSeen(t *testing.T) {
	t.Parallel()
	h := newHarbour(t, 1)
	s := newSquadron(h)
	m := newModel(h)
	var secretBlob shared // org-alfa's at docker.io, where org-bravo has no right to it
	var data []byte
	for _, r := range m.repos {
		if r.at == m.places[0] && r.name == "org-alfa/own" {
			for d, b := range r.blobs {
				if m.private[d] == r {
					secretBlob, data = shared{kind: oci.Blob, digest: d}, b
				}
			}
		}
	}
	origin := m.origin(m.places[0]).Dir()
	alfa := s.private("org-alfa", origin, "user", "password")
	put := func(sc seal.Scope, key seal.Scope, body []byte) {
		w, name := seal.NewWriting(), sc.Name(origin, oci.Blob, secretBlob.digest)
		sealed := key.Seal(nil, w, name, 0, int64(len(body)), body)
		file := filepath.Join(s.s3.Dir, filepath.FromSlash(seal.ObjectKey(name, w, 0)))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, sealed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(alfa, alfa, data)
	if troubles := m.lookAtFleet(s); troubles != nil {
		t.Fatalf("what is as it should be: %v", troubles)
	}
	bravo := s.private("org-bravo", origin, "user", "password")
	everybody := seal.Public(s.keys[""])
	for what, leak := range map[string]func(){
		"in another's scope":        func() { put(bravo, bravo, data) },
		"in everybody's scope":      func() { put(everybody, everybody, data) },
		"with another's key":        func() { put(alfa, bravo, data) },
		"in the clear, in a file":   func() { s.plant("v1/plain", data) },
		"a name in the bucket":      func() { s.plant("v1/org-alfa", nil) },
		"in the coordinator":        func() { s.redis.Do("set", "berth:slot:here:0", string(data[:60])) },
		"a name in the coordinator": func() { s.redis.Do("set", "berth:who:all:"+secretBlob.digest.Encoded(), "x") },
	} {
		leak()
		if troubles := m.lookAtFleet(s); len(troubles) == 0 {
			t.Errorf("%s: not seen", what)
		} else {
			t.Log(what+":", troubles[0])
		}
		s.redis.Do("flushall")
	}
}

func (s *squadron) plant(key string, body []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.s3.Dir, key), body, 0o600); err != nil {
		s.t.Fatal(err)
	}
}
