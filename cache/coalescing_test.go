package cache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/oci"
)

const mib = 1 << 20

// readers starts n clients on obj; wait fails the test unless each gets it right.
func readers(t *testing.T, s oci.Source, obj oci.Object, n int) (wait func() []error) {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = check(t.Context(), s, obj) })
	}
	return func() []error { wg.Wait(); return errs }
}

// check reads obj to its end and compares its digest.
func check(ctx context.Context, s oci.Source, obj oci.Object) error {
	c, err := s.Open(ctx, obj, oci.Range{})
	if err != nil {
		return err
	}
	defer c.Close()
	body := io.Reader(bytes.NewReader(c.Data))
	if c.Body != nil {
		body = c.Body
	}
	h := sha256.New()
	n, err := io.Copy(h, body)
	if err == nil && hex.EncodeToString(h.Sum(nil)) != obj.Digest.Encoded() {
		err = fmt.Errorf("%d wrong bytes", n)
	}
	return err
}

func wantAll(t *testing.T, errs []error) {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("reader %d: %v", i, err)
		}
	}
}

func TestManyReadersOneCopy(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(1, 20*mib+77)
	obj := h.addBlob("acme/app", data)
	wantAll(t, readers(t, h.source("acme", "a"), obj, 50)())
	if h.bytesSent() != int64(len(data)) {
		t.Errorf("upstream sent %d bytes for a blob of %d", h.bytesSent(), len(data))
	}
	if n := h.count("stat", 0); n != 0 {
		t.Errorf("%d probes: the GET itself proves", n)
	}
}

// Readers get their first bytes while the download has hardly begun.
func TestBytesFlowBeforeTheEnd(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(2, 8*mib)
	obj := h.addBlob("acme/app", data)
	gate := make(chan struct{})
	h.body = func(_ call, b []byte) io.Reader {
		return &gated{r: bytes.NewReader(b), open: gate, upTo: 100_000, ctx: t.Context()}
	}
	c, err := h.source("acme", "a").Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 100_000)
	if _, err := io.ReadFull(c.Body, first); err != nil || !bytes.Equal(first, data[:len(first)]) {
		t.Fatalf("the first bytes: %v", err)
	}
	close(gate)
	rest, err := io.ReadAll(c.Body)
	if err != nil || !bytes.Equal(rest, data[len(first):]) {
		t.Fatalf("the rest: %d bytes, %v", len(rest), err)
	}
	if err := c.Body.Close(); err != nil {
		t.Error(err)
	}
}

// The first client leaving costs the others nothing, and what it had fetched is
// not fetched again.
func TestFirstClientLeaves(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(3, 9*mib)
	obj := h.addBlob("acme/app", data)
	gate := make(chan struct{})
	h.body = func(_ call, b []byte) io.Reader {
		return &gated{r: bytes.NewReader(b), open: gate, upTo: 3*mib + 5, ctx: t.Context()}
	}
	s := h.source("acme", "a")
	ctx, leave := context.WithCancel(t.Context())
	c, err := s.Open(ctx, obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, c.Body, 3*mib); err != nil {
		t.Fatal(err)
	}
	leave()
	if err := c.Body.Close(); err != nil {
		t.Error(err)
	}
	wait := readers(t, s, obj, 3)
	close(gate)
	wantAll(t, wait())
	if h.bytesSent() != int64(len(data)) {
		t.Errorf("upstream sent %d bytes for a blob of %d", h.bytesSent(), len(data))
	}
}

// cut ends the first k bodies after n bytes.
func cut(k int32, n int) func(call, []byte) io.Reader {
	var cuts atomic.Int32
	return func(c call, b []byte) io.Reader {
		if c.kind == oci.Blob && len(b) > n && cuts.Add(1) <= k {
			return bytes.NewReader(b[:n])
		}
		return bytes.NewReader(b)
	}
}

func TestCutIsResumed(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(4, 6*mib)
	obj := h.addBlob("acme/app", data)
	h.body = cut(2, 2*mib+123)
	if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	}
	if h.bytesSent() != int64(len(data)) {
		t.Errorf("upstream sent %d bytes for a blob of %d", h.bytesSent(), len(data))
	}
}

// flip changes one bit in the first k bodies.
func flip(k int32) func(call, []byte) io.Reader {
	var flips atomic.Int32
	return func(c call, b []byte) io.Reader {
		if c.kind == oci.Blob && flips.Add(1) <= k {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 4
		}
		return bytes.NewReader(b)
	}
}

func TestWrongByteInASmallBlobIsNotSeen(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(5, 3*mib)
	obj := h.addBlob("acme/app", data)
	h.body = flip(1)
	if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	}
}

// After two wrong copies nothing goes upstream for a minute.
func TestTwoWrongCopies(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(6, 3*mib)
	obj := h.addBlob("acme/app", data)
	h.body = flip(2)
	s := h.source("acme", "a")
	for range 3 {
		_, err := s.Open(t.Context(), obj, oci.Range{})
		if oci.ClassOf(err) != oci.Corrupt {
			t.Fatalf("got %v, want corrupt", err)
		}
	}
	if n := h.count("open", oci.Blob); n != 2 {
		t.Errorf("%d downloads, want 2", n)
	}
	h.advance(time.Minute)
	if got := read(t, s, obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	}
}

// A large blob with a wrong byte never ends cleanly, and is not kept.
func TestWrongByteInALargeBlobNeverEndsCleanly(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(7, 6*mib)
	obj := h.addBlob("acme/app", data)
	h.body = flip(1)
	s := h.source("acme", "a")
	got, err := get(t.Context(), s, obj, oci.Range{})
	if err == nil || len(got) >= len(data) {
		t.Fatalf("a wrong copy ended after %d of %d bytes with %v", len(got), len(data), err)
	}
	if oci.ClassOf(err) != oci.Corrupt {
		t.Errorf("got %v, want corrupt", err)
	}
	if got := read(t, s, obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes the second time")
	}
}

// A refusal strikes its own sponsor only.
func TestStrike(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(8, 6*mib)
	obj := h.addBlob("acme/app", data)
	gate := make(chan struct{})
	h.body = func(c call, b []byte) io.Reader {
		if c.principal.Organisation == "globex" && c.rng.Start == 0 {
			return io.MultiReader(bytes.NewReader(b[:mib]), &gated{r: bytes.NewReader(nil), open: gate, ctx: t.Context()})
		}
		return bytes.NewReader(b)
	}
	globex := h.source("globex", "g")
	first, err := globex.Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	acme, err := h.source("acme", "a").Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	// globex loses its rights; its connection breaks; acme's goes on.
	h.set(func() { h.private["acme/app"] = []string{"acme"} })
	close(gate)
	for name, c := range map[string]*oci.Content{"acme": acme, "globex, which was let in before": first} {
		got, err := io.ReadAll(c.Body)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := c.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := globex.Open(t.Context(), obj, oci.Range{}); !oci.ClassOf(err).Refuses() {
		t.Errorf("globex after its denial: %v", err)
	}
}

// What a fill had fetched before the last of its sponsors was refused is not
// fetched again for the next one, who has to prove its own right first.
func TestRefusedOnTheWay(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(8, 6*mib)
	obj := h.addBlob("acme/app", data)
	h.body = cut(1, 5*mib)
	h.after = func(call) { h.set(func() { h.private["acme/app"] = []string{"globex"} }) }
	if got, err := get(t.Context(), h.source("acme", "a"), obj, oci.Range{}); err == nil {
		t.Fatalf("acme got %d bytes", len(got))
	}
	h.set(func() { h.after = nil })
	if _, err := h.source("acme", "a").Open(t.Context(), obj, oci.Range{}); !oci.ClassOf(err).Refuses() {
		t.Errorf("acme, of what is there: %v", err)
	}
	if got := read(t, h.source("globex", "g"), obj); !bytes.Equal(got, data) {
		t.Error("wrong bytes")
	}
	if h.bytesSent() != int64(len(data)) {
		t.Errorf("upstream sent %d bytes for a blob of %d", h.bytesSent(), len(data))
	}
}

// A stranger that may not read gets nothing of a running fill, and its own
// answer.
func TestStrangerAtARunningFill(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(9, 6*mib)
	obj := h.addBlob("acme/app", data)
	h.private["acme/app"] = []string{"acme"}
	gate := make(chan struct{})
	h.body = func(_ call, b []byte) io.Reader {
		return &gated{r: bytes.NewReader(b), open: gate, upTo: mib, ctx: t.Context()}
	}
	c, err := h.source("acme", "a").Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.source("globex", "g").Open(t.Context(), obj, oci.Range{}); oci.ClassOf(err) != oci.Denied {
		t.Errorf("globex: %v", err)
	}
	if _, err := h.source("", "").Open(t.Context(), obj, oci.Range{}); oci.ClassOf(err) != oci.NoCredential {
		t.Errorf("nobody: %v", err)
	}
	close(gate)
	if got, err := io.ReadAll(c.Body); err != nil || !bytes.Equal(got, data) {
		t.Errorf("acme: %d bytes, %v", len(got), err)
	}
	if err := c.Body.Close(); err != nil {
		t.Error(err)
	}
}

// A bounded range far ahead takes its own blocks and not the whole blob; they
// count towards the whole.
func TestLazyRange(t *testing.T) {
	h := newHouse(t, cache.Options{})
	data := random(10, 40*mib)
	obj := h.addBlob("acme/app", data)
	s := h.source("acme", "a")
	for _, r := range []oci.Range{{Start: 30 * mib, Length: 1000}, {Start: -500}, {Start: 30*mib + 500, Length: 1000}} {
		want := data[30*mib : 30*mib+1000]
		switch {
		case r.Start < 0:
			want = data[len(data)-500:]
		case r.Start > 30*mib:
			want = data[30*mib+500 : 30*mib+1500]
		}
		if got, err := get(t.Context(), s, obj, r); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("range %+v: %d bytes, %v", r, len(got), err)
		}
	}
	if h.bytesSent() > 2*mib {
		t.Errorf("upstream sent %d bytes for three small ranges", h.bytesSent())
	}
	if got := read(t, s, obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	}
	if h.bytesSent() != int64(len(data)) {
		t.Errorf("upstream sent %d bytes for a blob of %d", h.bytesSent(), len(data))
	}
}

func TestUpstreamIgnoresRanges(t *testing.T) {
	h := newHouse(t, cache.Options{})
	h.noRange = true
	data := random(11, 40*mib)
	obj := h.addBlob("acme/app", data)
	if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	}
	if n := h.count("open", oci.Blob); n != 1 {
		t.Errorf("%d requests, want one stream", n)
	}
}

func TestUnknownLength(t *testing.T) {
	h := newHouse(t, cache.Options{})
	h.noRange, h.noLength = true, true
	data := random(12, 6*mib+1)
	obj := h.addBlob("acme/app", data)
	s := h.source("acme", "a")
	wantAll(t, readers(t, s, obj, 5)())
	if got := read(t, s, obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes from the cache")
	}
	if n := h.count("open", oci.Blob); n != 1 {
		t.Errorf("%d requests, want one", n)
	}
	// Readers of a wrong copy of unknown length get no clean end either.
	bad := h.addBlob("acme/app", random(13, 6*mib))
	h.body = flip(1)
	if got, err := get(t.Context(), s, bad, oci.Range{}); err == nil {
		t.Errorf("a wrong copy ended cleanly after %d bytes", len(got))
	}
}

// A fill that nobody reads stops, keeps its bytes, and goes on for the next one.
func TestParking(t *testing.T) {
	h := newHouse(t, cache.Options{ParkAfter: time.Millisecond})
	data := random(14, 40*mib)
	obj := h.addBlob("acme/app", data)
	s := h.source("acme", "a")
	c, err := s.Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, c.Body, mib); err != nil {
		t.Fatal(err)
	}
	if err := c.Body.Close(); err != nil {
		t.Error(err)
	}
	if got := read(t, s, obj); !bytes.Equal(got, data) {
		t.Fatal("wrong bytes")
	}
	if h.bytesSent() != int64(len(data)) {
		t.Errorf("upstream sent %d bytes for a blob of %d", h.bytesSent(), len(data))
	}
}

// Trouble with the origin is the readers' answer, in its own class.
func TestOpenErrors(t *testing.T) {
	for _, class := range []oci.Class{oci.Unauthorized, oci.Denied, oci.NotFound, oci.RateLimited, oci.Unreachable, oci.Timeout, oci.UpstreamError} {
		t.Run(class.String(), func(t *testing.T) {
			h := newHouse(t, cache.Options{})
			obj := h.addBlob("acme/app", random(15, 100))
			h.fault = func(call) error { return &oci.Error{Class: class, Message: "so it is"} }
			errs := readers(t, h.source("acme", "a"), obj, 5)()
			for _, err := range errs {
				if oci.ClassOf(err) != class {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func TestReaderThatGivesUp(t *testing.T) {
	h := newHouse(t, cache.Options{})
	obj := h.addBlob("acme/app", random(16, 100))
	gate := make(chan struct{})
	h.fault = func(call) error { <-gate; return nil }
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if _, err := h.source("acme", "a").Open(ctx, obj, oci.Range{}); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	close(gate)
}

// An upstream that cuts every answer after a few bytes is given up on, and what
// it sent stays.
func TestTooLittleProgress(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, cache.Options{Dir: dir})
		data := random(60, 5*mib)
		obj := h.addBlob("acme/app", data)
		h.body = func(_ call, b []byte) io.Reader { return bytes.NewReader(b[:min(300, len(b))]) }
		if got, err := get(t.Context(), h.source("acme", "a"), obj, oci.Range{}); err == nil {
			t.Fatalf("%d bytes", len(got))
		}
		if n := h.count("open", oci.Blob); n > 7 {
			t.Errorf("%d requests", n)
		}
		// With enough in each it goes on to the end.
		h.set(func() {
			h.body = func(_ call, b []byte) io.Reader { return bytes.NewReader(b[:min(300<<10, len(b))]) }
		})
		if got := read(t, h.source("acme", "a"), obj); !bytes.Equal(got, data) {
			t.Error("wrong bytes")
		}
	})
}

// What memory serves counts as used on the disk too.
func TestHotIsUsed(t *testing.T) {
	dir := t.TempDir()
	h := newHouseIn(t, cache.Options{Dir: dir})
	obj := h.addBlob("acme/app", random(61, 1000))
	read(t, h.source("acme", "a"), obj)
	h.reopen(t, cache.Options{Dir: dir}) // it is published
	s := h.source("acme", "a")
	read(t, s, obj)
	old := time.Now().Add(-48 * time.Hour)
	for _, c := range []struct {
		after time.Duration
		told  bool
	}{{time.Minute, false}, {2 * time.Hour, true}} {
		if err := os.Chtimes(h.kept(dir, obj), old, old); err != nil {
			t.Fatal(err)
		}
		h.advance(c.after)
		read(t, s, obj)
		info, err := os.Stat(h.kept(dir, obj))
		if err != nil || info.ModTime().After(old.Add(time.Hour)) != c.told {
			t.Errorf("after %v: used at %v, %v", c.after, info.ModTime(), err)
		}
	}
}
