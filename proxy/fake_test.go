package proxy

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"berth/oci"
)

// fake is a Source in memory. It counts what it is asked, fails when told to,
// and complains about callers that break the rules of oci.Source.
type fake struct {
	t *testing.T

	mu      sync.Mutex
	calls   map[string]int
	ranges  []oci.Range
	lists   []oci.ListRequest
	opened  int
	closed  int
	tags    map[string]oci.Digest // "repo:tag"
	objects map[oci.Object]*thing
	page    *oci.Page
	fails   map[string]error // by call: resolve, stat, open, list
	before  func(ctx context.Context, call string) error
	outcome map[string]oci.Outcome // by call
}

// thing is an object and how it is given.
type thing struct {
	mediaType string
	data      []byte
	form      form
	// failAt is where reading fails with failWith. 0: nowhere, but see failWith.
	failAt   int64
	failWith error
	// failWhen waits for the moment and says what reading fails with there.
	failWhen func(ctx context.Context) error
	// inResolve says that Data comes along with the tag, inOpen that a blob is in memory.
	inResolve, inOpen bool
	// hot says that it lies in memory.
	hot bool
	// unknown says that sizes are not told.
	unknown bool
	// ignoresRange says that a stream always is the whole object.
	ignoresRange bool
	// front is how much of its beginning a stream is, whatever is asked for; 0: no.
	front int64
	// wait blocks reading until the context ends.
	wait bool
}

type form int

const (
	seekable form = iota
	file          // seekable, and a Piecer
	stream        // from the front only
)

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{
		t: t, calls: map[string]int{}, tags: map[string]oci.Digest{}, objects: map[oci.Object]*thing{},
		fails: map[string]error{}, outcome: map[string]oci.Outcome{},
	}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.opened != f.closed {
			t.Errorf("%d bodies were opened and %d closed", f.opened, f.closed)
		}
	})
	return f
}

func (f *fake) put(repo string, kind oci.Kind, th *thing) oci.Digest {
	d := oci.DigestOf(th.data)
	f.objects[oci.Object{Repo: repo, Kind: kind, Digest: d}] = th
	return d
}

func (f *fake) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

func (f *fake) lastRange() oci.Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ranges[len(f.ranges)-1]
}

func (f *fake) enter(ctx context.Context, call, repo string) error {
	if !oci.ValidName(repo) {
		f.t.Errorf("%s of the repository %q, which is no name", call, repo)
	}
	f.mu.Lock()
	f.calls[call]++
	err, before := f.fails[call], f.before
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx, call); err != nil {
			return err
		}
	}
	return err
}

func (f *fake) Principal(string) oci.Principal { return oci.Principal{} }

func (f *fake) Resolve(ctx context.Context, repo, tag string) (oci.Resolution, error) {
	if err := f.enter(ctx, "resolve", repo); err != nil {
		return oci.Resolution{}, err
	}
	d, ok := f.tags[repo+":"+tag]
	if !ok {
		return oci.Resolution{}, &oci.Error{Class: oci.NotFound, Message: repo + " has no tag " + tag}
	}
	th := f.objects[oci.Object{Repo: repo, Kind: oci.Manifest, Digest: d}]
	desc := th.descriptor(d)
	if th.inResolve {
		desc.Data = th.data
	}
	return oci.Resolution{Descriptor: desc, Outcome: f.outcome["resolve"]}, nil
}

func (f *fake) Stat(ctx context.Context, o oci.Object) (*oci.Content, error) {
	if err := f.enter(ctx, "stat", o.Repo); err != nil {
		return nil, err
	}
	th, ok := f.objects[o]
	if !ok {
		return nil, &oci.Error{Class: oci.NotFound, Message: o.Repo + " has no " + o.Kind.String() + " " + string(o.Digest)}
	}
	return &oci.Content{Descriptor: th.descriptor(o.Digest), Outcome: f.outcome["stat"]}, nil
}

func (f *fake) Open(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	f.mu.Lock()
	f.ranges = append(f.ranges, r)
	f.mu.Unlock()
	th, ok := f.objects[o]
	if m := oci.MemoryOf(ctx); m != nil && ok && !th.hot {
		if err := m.Need(ctx, nil); err != nil {
			return nil, err
		}
	}
	if err := f.enter(ctx, "open", o.Repo); err != nil {
		return nil, err
	}
	if !ok {
		return nil, &oci.Error{Class: oci.NotFound, Message: o.Repo + " has no " + o.Kind.String() + " " + string(o.Digest)}
	}
	c := &oci.Content{Descriptor: th.descriptor(o.Digest), Outcome: f.outcome["open"], Length: int64(len(th.data))}
	if o.Kind == oci.Manifest {
		if th.wait {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		c.Data = th.data
		return c, th.failWith
	}
	if th.inOpen {
		c.Data = th.data
		return c, nil
	}
	b := &fakeBody{f: f, ctx: ctx, th: th, end: int64(len(th.data))}
	f.mu.Lock()
	f.opened++
	f.mu.Unlock()
	switch th.form {
	case seekable:
		c.Body = seekBody{b}
	case file:
		c.Body = newFileBody(b)
	case stream:
		c.Body = b
		if !th.ignoresRange {
			c.Offset, c.Length = bounds(r, int64(len(th.data)))
			b.pos, b.end = c.Offset, c.Offset+c.Length
		}
		if th.front > 0 {
			c.Offset, c.Length = 0, th.front
			b.pos, b.end = 0, th.front
		}
		if th.unknown {
			c.Length = -1
		}
	}
	return c, nil
}

// bounds is what a registry would send for r.
func bounds(r oci.Range, size int64) (offset, length int64) {
	if r.Start < 0 {
		offset = max(0, size+r.Start)
		return offset, size - offset
	}
	offset = min(r.Start, size)
	length = size - offset
	if r.Length > 0 {
		length = min(length, r.Length)
	}
	return offset, length
}

func (f *fake) List(ctx context.Context, req oci.ListRequest) (*oci.Page, error) {
	f.mu.Lock()
	f.lists = append(f.lists, req)
	f.mu.Unlock()
	if err := f.enter(ctx, "list", req.Repo); err != nil {
		return nil, err
	}
	return f.page, nil
}

func (th *thing) descriptor(d oci.Digest) oci.Descriptor {
	desc := oci.Descriptor{MediaType: th.mediaType, Digest: d, Size: int64(len(th.data))}
	if th.unknown {
		desc.Size = -1
	}
	return desc
}

// fakeBody reads from the front.
type fakeBody struct {
	f   *fake
	ctx context.Context
	th  *thing
	end int64

	mu     sync.Mutex
	pos    int64
	reads  int
	closed bool
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if b.th.wait {
		<-b.ctx.Done()
		return 0, context.Cause(b.ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		b.f.t.Error("a body was read after it was closed")
		return 0, os.ErrClosed
	}
	b.reads++
	limit := b.end
	if b.th.failAt > 0 {
		limit = min(limit, b.th.failAt)
	}
	if b.pos >= limit {
		if b.th.failWhen != nil {
			return 0, b.th.failWhen(b.ctx)
		}
		if b.th.failWith != nil {
			return 0, b.th.failWith
		}
		return 0, io.EOF
	}
	n := copy(p, b.th.data[b.pos:limit])
	b.pos += int64(n)
	return n, nil
}

func (b *fakeBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		b.f.t.Error("a body was closed twice")
		return os.ErrClosed
	}
	b.closed = true
	b.f.mu.Lock()
	b.f.closed++
	b.f.mu.Unlock()
	return nil
}

type seekBody struct{ *fakeBody }

func (b seekBody) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if whence != io.SeekStart {
		return 0, errors.New("the fake seeks from the start only")
	}
	b.pos = offset
	return offset, nil
}

// fileBody has its bytes in a real file, for the kernel.
type fileBody struct {
	seekBody
	file   *os.File
	pieces int
}

func newFileBody(b *fakeBody) *fileBody {
	path := filepath.Join(b.f.t.TempDir(), "blob")
	data := b.th.data
	if b.th.failAt > 0 && b.th.failWith == nil {
		data = data[:b.th.failAt] // shorter than it says
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.f.t.Error(err)
	}
	file, err := os.Open(path)
	if err != nil {
		b.f.t.Error(err)
	}
	return &fileBody{seekBody: seekBody{b}, file: file}
}

func (b *fileBody) Piece(limit int64) (io.Reader, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pieces++
	if limit > maxPiece {
		b.f.t.Errorf("a piece of %d bytes was asked for", limit)
	}
	if b.th.failWith != nil {
		if b.pos >= b.th.failAt {
			return nil, b.th.failWith
		}
		limit = min(limit, b.th.failAt-b.pos)
	}
	if b.pos >= b.end {
		return nil, io.EOF
	}
	if _, err := b.file.Seek(b.pos, io.SeekStart); err != nil {
		return nil, err
	}
	return &io.LimitedReader{R: b.file, N: min(limit, b.end-b.pos)}, nil
}

func (b *fileBody) Moved(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pos += n
	at, err := b.file.Seek(0, io.SeekCurrent)
	if err != nil || at != b.pos {
		b.f.t.Errorf("the file stands at %d and the body at %d (%v)", at, b.pos, err)
	}
}

func (b *fileBody) Close() error {
	return errors.Join(b.file.Close(), b.fakeBody.Close())
}

// pattern is n bytes without repetition that a shift would hide.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(n) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

var _ oci.Source = (*fake)(nil)
var _ oci.Piecer = (*fileBody)(nil)
