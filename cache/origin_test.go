package cache_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"berth/cache"
	"berth/internal/ocitest"
	"berth/internal/registry"
	"berth/oci"
)

// origin is a registry in memory, as an oci.Source for each principal. It counts
// every call, complains about what must never happen, and fails on demand.
type origin struct {
	t testing.TB

	mu       sync.Mutex
	now      time.Time
	bubble   bool // the clock is the bubble's, and now counts for nothing
	objects  map[oci.Object][]byte
	tags     map[string]oci.Digest // repo:tag
	private  map[string][]string   // repo -> organisations that may read it
	calls    []call
	sent     int64 // blob bytes
	piece    int64 // how much of a blob comes whatever was asked for; 0: all of it
	chunk    int   // how much comes at once; 0: 32 KiB
	fault    func(call) error
	body     func(call, []byte) io.Reader // what is sent instead
	noRange  bool
	noLength bool
	noSize   bool            // of a part, it does not say of how much
	unproven func(call) bool // the answer to this one proves nothing
	after    func(call)      // runs when the answer is ready, before it is returned
}

type call struct {
	op        string // resolve, stat, open, list
	principal oci.Principal
	who       string
	repo      string
	ref       string
	kind      oci.Kind
	rng       oci.Range
	past      func() bool     // it may go out past a limit that is ours
	gone      func()          // after that it has gone out
	along     func() []string // for whom it is besides
	memory    oci.Memory      // what whoever asks has of it
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	return &origin{
		t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		objects: map[oci.Object][]byte{}, tags: map[string]oci.Digest{}, private: map[string][]string{},
	}
}

func (o *origin) clock() time.Time {
	if o.bubble {
		return time.Now()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func (o *origin) advance(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = o.now.Add(d)
}

func (o *origin) addBlob(repo string, data []byte) oci.Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	obj := oci.Object{Repo: repo, Kind: oci.Blob, Digest: oci.DigestOf(data)}
	o.objects[obj] = data
	return obj
}

func (o *origin) addManifest(repo, tag, data string) oci.Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	obj := oci.Object{Repo: repo, Kind: oci.Manifest, Digest: oci.DigestOf([]byte(data))}
	o.objects[obj] = []byte(data)
	if tag != "" {
		o.tags[repo+":"+tag] = obj.Digest
	}
	return obj
}

func (o *origin) set(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

// count of the calls that began with op, for kind (0: any).
func (o *origin) count(op string, kind oci.Kind) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, c := range o.calls {
		if c.op == op && (kind == 0 || c.kind == kind) {
			n++
		}
	}
	return n
}

func (o *origin) total() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.calls)
}

func (o *origin) bytesSent() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent
}

// as is the origin asked as one organisation; with a secret it has a credential.
func (o *origin) as(organisation, secret string) oci.Source {
	v := oci.Principal{}
	if secret != "" {
		v = oci.Principal{Organisation: organisation, Fingerprint: secret}
	}
	return &asPrincipal{o, v, organisation}
}

type asPrincipal struct {
	o         *origin
	principal oci.Principal
	who       string // for whom, credential or not
}

func (a *asPrincipal) Principal(string) oci.Principal { return a.principal }

// answer is the part that all calls share: it records, fails on demand, and
// checks rights.
func (a *asPrincipal) answer(c call) (time.Time, error) {
	asked := a.o.clock()
	a.o.mu.Lock()
	a.o.calls = append(a.o.calls, c)
	fault := a.o.fault
	readers, restricted := a.o.private[c.repo]
	a.o.mu.Unlock()
	if fault != nil {
		if err := fault(c); err != nil {
			return asked, err
		}
	}
	if restricted && !slices.Contains(readers, a.principal.Organisation) {
		class := oci.Denied
		if a.principal.Shared() {
			class = oci.NoCredential
		}
		return asked, &oci.Error{Class: class, Message: "you may not read " + c.repo}
	}
	return asked, nil
}

func (a *asPrincipal) done(c call) {
	a.o.mu.Lock()
	after := a.o.after
	a.o.mu.Unlock()
	if after != nil {
		after(c)
	}
}

func past(ctx context.Context) func() bool { return func() bool { return oci.Insists(ctx) } }

func notFound(what string) error {
	return &oci.Error{Class: oci.NotFound, Message: "no " + what}
}

func (a *asPrincipal) Resolve(ctx context.Context, repo, tag string) (oci.Resolution, error) {
	c := call{principal: a.principal, who: a.who, op: "resolve", repo: repo, ref: tag, kind: oci.Manifest, past: past(ctx), gone: func() { oci.Sent(ctx) }, along: oci.AlongOf(ctx), memory: oci.MemoryOf(ctx)}
	asked, err := a.answer(c)
	if err != nil {
		return oci.Resolution{}, err
	}
	a.o.mu.Lock()
	d, ok := a.o.tags[repo+":"+tag]
	size := len(a.o.objects[oci.Object{Repo: repo, Kind: oci.Manifest, Digest: d}])
	a.o.mu.Unlock()
	if !ok {
		return oci.Resolution{}, notFound(tag)
	}
	a.done(c)
	return oci.Resolution{
		Descriptor: oci.Descriptor{MediaType: indexType, Digest: d, Size: int64(size)},
		Outcome:    oci.Outcome{Asked: asked},
	}, nil
}

const indexType = "application/vnd.oci.image.index.v1+json"

func (a *asPrincipal) Stat(ctx context.Context, obj oci.Object) (*oci.Content, error) {
	c := call{principal: a.principal, who: a.who, op: "stat", repo: obj.Repo, ref: obj.Digest.String(), kind: obj.Kind, past: past(ctx), gone: func() { oci.Sent(ctx) }, along: oci.AlongOf(ctx), memory: oci.MemoryOf(ctx)}
	asked, err := a.answer(c)
	if err != nil {
		return nil, err
	}
	a.o.mu.Lock()
	data, ok := a.o.objects[obj]
	size := int64(len(data))
	if a.o.noSize {
		size = -1
	}
	a.o.mu.Unlock()
	if !ok {
		return nil, notFound(obj.Digest.String())
	}
	a.done(c)
	return &oci.Content{
		Descriptor: oci.Descriptor{Digest: obj.Digest, Size: size},
		Outcome:    oci.Outcome{Asked: asked},
	}, nil
}

func (a *asPrincipal) Open(ctx context.Context, obj oci.Object, r oci.Range) (*oci.Content, error) {
	c := call{principal: a.principal, who: a.who, op: "open", repo: obj.Repo, ref: obj.Digest.String(), kind: obj.Kind, rng: r, past: past(ctx), gone: func() { oci.Sent(ctx) }, along: oci.AlongOf(ctx), memory: oci.MemoryOf(ctx)}
	asked, err := a.answer(c)
	if err != nil {
		return nil, err
	}
	a.o.mu.Lock()
	data, ok := a.o.objects[obj]
	noRange, noLength, noSize, piece, body := a.o.noRange, a.o.noLength, a.o.noSize, a.o.piece, a.o.body
	a.o.mu.Unlock()
	if !ok {
		return nil, notFound(obj.Digest.String())
	}
	a.done(c)
	start, end := int64(0), int64(len(data))
	if !noRange && obj.Kind == oci.Blob {
		if r.Start < 0 {
			start = max(end+r.Start, 0)
		} else if r.Start > end {
			return nil, fmt.Errorf("range %v is past the end", r)
		} else {
			start = r.Start
		}
		if r.Length > 0 {
			end = min(start+r.Length, end)
		}
	}
	if piece > 0 && obj.Kind == oci.Blob {
		end = min(end, start+piece)
	}
	content := &oci.Content{
		Descriptor: oci.Descriptor{Digest: obj.Digest, Size: int64(len(data))},
		Outcome:    oci.Outcome{Asked: asked},
		Offset:     start, Length: end - start,
	}
	a.o.mu.Lock()
	unproven := a.o.unproven
	a.o.mu.Unlock()
	if unproven != nil && unproven(c) {
		content.Asked = time.Time{}
	}
	if noLength {
		content.Size, content.Length = -1, -1
	}
	if noSize && r != (oci.Range{}) {
		content.Size = -1
	}
	var src io.Reader = bytes.NewReader(data[start:end])
	if body != nil {
		src = body(c, data[start:end])
	}
	content.Body = &countedBody{o: a.o, ctx: ctx, r: src, left: content.Length, blob: obj.Kind == oci.Blob}
	if obj.Kind == oci.Manifest {
		return whole(content)
	}
	return content, nil
}

// whole is the content of a manifest, read and verified as upstream does it.
func whole(c *oci.Content) (*oci.Content, error) {
	defer c.Close()
	data, err := io.ReadAll(c.Body)
	if err != nil {
		return nil, err
	}
	if oci.DigestOf(data) != c.Digest {
		return nil, &oci.Error{Class: oci.Corrupt, NotUnderstood: true, Message: "a manifest that has not its digest"}
	}
	c.Data, c.Body, c.Size, c.Length = data, nil, int64(len(data)), int64(len(data))
	return c, nil
}

func (a *asPrincipal) List(context.Context, oci.ListRequest) (*oci.Page, error) {
	_, err := a.answer(call{principal: a.principal, who: a.who, op: "list"})
	return &oci.Page{}, err
}

// countedBody counts what is read, and behaves like upstream's: a short body is
// an error.
type countedBody struct {
	o    *origin
	ctx  context.Context
	r    io.Reader
	left int64 // -1: unknown
	blob bool
}

func (b *countedBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p[:min(len(p), cmp.Or(b.o.chunk, 32<<10))])
	if b.blob {
		b.o.set(func() { b.o.sent += int64(n) })
	}
	if b.left >= 0 {
		b.left -= int64(n)
		if err == io.EOF && b.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (b *countedBody) Close() error {
	if c, ok := b.r.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// gated lets a body go on only as far as it was let.
type gated struct {
	r    io.Reader
	open chan struct{}
	upTo int
	ctx  context.Context
}

func (g *gated) Read(p []byte) (int, error) {
	if g.upTo > 0 {
		n, err := g.r.Read(p[:min(len(p), g.upTo)])
		g.upTo -= n
		return n, err
	}
	select {
	case <-g.open:
	case <-g.ctx.Done():
		return 0, g.ctx.Err()
	}
	return g.r.Read(p)
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7}).Read(b) // never fails
	return b
}

// house is a cache with its origin.
type house struct {
	*origin
	cache *cache.Cache
	id    oci.Origin
}

func newHouse(t *testing.T, o cache.Options) *house {
	t.Helper()
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	if o.Dir == "" {
		o.Dir = ocitest.MemoryDir(t)
	}
	o.Now = h.clock
	h.cache = open(t, o)
	return h
}

func open(t *testing.T, o cache.Options) *cache.Cache {
	t.Helper()
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// source is the registry through the cache, as organisation; an empty secret is
// nobody's credential.
func (h *house) source(organisation, secret string) oci.Source {
	return h.cache.Through(h.upstream(organisation, secret))
}

func (h *house) upstream(organisation, secret string) cache.Upstream {
	return cache.Upstream{Organisation: organisation, Spec: &registry.Spec{Name: "registry.example", Origin: h.id}, As: h.as(organisation, secret), Shared: h.as("", "")}
}

func read(t testing.TB, s oci.Source, obj oci.Object) []byte {
	t.Helper()
	data, err := get(t.Context(), s, obj, oci.Range{})
	if err != nil {
		t.Fatalf("reading %v: %v", obj, err)
	}
	return data
}

// get reads what r names of obj to its end.
func get(ctx context.Context, s oci.Source, obj oci.Object, r oci.Range) ([]byte, error) {
	c, err := s.Open(ctx, obj, r)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if c.Data != nil {
		start, end := r.Start, int64(len(c.Data))
		if start < 0 {
			start = max(end+start, 0)
		}
		if r.Length > 0 {
			end = min(start+r.Length, end)
		}
		return c.Data[min(start, end):end], nil
	}
	length := int64(1 << 62)
	if seeker, ok := c.Body.(io.Seeker); ok && r.Start != 0 {
		whence := io.SeekStart
		if r.Start < 0 {
			whence = io.SeekEnd
		}
		if _, err := seeker.Seek(r.Start, whence); err != nil {
			return nil, err
		}
	}
	if r.Length > 0 {
		length = r.Length
	}
	return io.ReadAll(io.LimitReader(c.Body, length))
}
