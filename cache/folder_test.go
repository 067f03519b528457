package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"berth/cache"
	"berth/cache/store"
	"berth/internal/ocitest"
	"berth/oci"
)

// logged is a log that a test reads while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// settle waits until what was fetched is published, or is not.
func (h *house) settle() {
	for h.cache.Numbers().Fills > 0 {
		runtime.Gosched()
	}
}

// Each kind of operation is refused for good, from the start or from some moment on:
// every pull succeeds, and when it works again what is pulled is kept, without a
// restart.
func TestFolder_EveryRefusalIsSurvived(t *testing.T) {
	for _, op := range append(store.Ops(), store.OpLock, store.OpLink, store.OpSpace) {
		for _, why := range []unix.Errno{unix.EIO, unix.EPERM, unix.EACCES, unix.EROFS, unix.ENOSPC, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.ENOLCK} {
			for _, atStart := range []bool{true, false} {
				if op == store.OpLock && (why == unix.EACCES || !atStart) {
					continue // EACCES says that another has the lock, and later none is taken
				}
				t.Run(fmt.Sprint(op, " ", unix.ErrnoName(why), " ", atStart), func(t *testing.T) {
					refused(t, op, why, atStart)
				})
			}
		}
	}
}

func refused(t *testing.T, op store.Op, why error, atStart bool) {
	t.Helper()
	var on atomic.Bool
	on.Store(atStart)
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	dir := filepath.Join(ocitest.MemoryDir(t), "cache")
	h.cache = open(t, cache.Failing(cache.Options{Dir: dir, Now: h.clock, Limits: func(int64) (int64, int64, error) { return 64 * mib, 0, nil }},
		func(o store.Op, _ string) error {
			if o == op && on.Load() {
				return why
			}
			return nil
		}))
	s := h.source("acme", "a")
	pull := func(seed uint64) {
		t.Helper()
		data := random(seed, 100_000)
		if got := read(t, s, h.addBlob("acme/app", data)); !bytes.Equal(got, data) {
			t.Errorf("%d bytes", len(got))
		}
	}
	pull(1)
	on.Store(true)
	for seed := range uint64(3) {
		pull(2 + seed)
	}
	h.settle() // a refusal may come after the reader's last byte
	on.Store(false)
	h.advance(cache.DiskRest)
	h.cache.Look()
	if n := h.cache.Numbers(); !n.Writable || n.Past != nil {
		t.Errorf("it works again, and: %+v", n)
	}
	before := h.cache.Numbers().Bypassed
	pull(9)
	h.settle()
	if now := h.cache.Numbers(); now.Bypassed != before || now.Blobs == 0 {
		t.Errorf("pulls go past a disk that works: %+v", now)
	}
}

// The folder cannot be used at first, then it can, is taken away, and is back: each
// is logged once, and the numbers say it.
func TestFolder_ComesAndGoes(t *testing.T) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	dir := filepath.Join(ocitest.MemoryDir(t), "cache")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	h.cache = open(t, cache.Options{Dir: dir, Now: h.clock, Log: slog.New(slog.NewTextHandler(log, nil))})
	s := h.source("acme", "a")
	pull := func(data []byte, kept bool) {
		t.Helper()
		if got := read(t, s, h.addBlob("acme/app", data)); !bytes.Equal(got, data) {
			t.Errorf("%d bytes", len(got))
		}
		h.settle()
		n := h.cache.Numbers()
		if n.Writable != kept || (n.Past == nil) != kept {
			t.Errorf("kept: want %v: %+v", kept, n)
		}
	}
	pull(random(1, 6*mib), false)
	pull(random(2, 1000), false)
	if n := h.cache.Numbers(); n.Past.Reason != cache.PastUnusable || n.Past.Err == nil || n.Bypassed != 2 {
		t.Errorf("%+v", n)
	}
	h.cache.Look()
	if got := log.count("cannot be used"); got != 1 {
		t.Errorf("it was said %d times:\n%s", got, &log.text)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	h.cache.Look()
	pull(random(3, 6*mib), true)
	if got := log.count("can be used again"); got != 1 {
		t.Errorf("it was said %d times:\n%s", got, &log.text)
	}

	evicted := h.cache.Numbers().Evicted
	if err := os.RemoveAll(dir); err != nil { // emptied: it is used at once
		t.Fatal(err)
	}
	pull(random(4, 6*mib), true)
	if got := log.count("emptied or replaced"); got != 1 || h.cache.Numbers().Evicted < evicted {
		t.Errorf("it was said %d times:\n%s", got, &log.text)
	}
	if got := read(t, s, h.addBlob("acme/app", random(4, 6*mib))); len(got) != 6*mib {
		t.Errorf("%d bytes", len(got))
	}

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pull(random(5, 1000), false)
	pull(random(6, 1000), false)
	if got := log.count("not where it was"); got != 1 {
		t.Errorf("it was said %d times:\n%s", got, &log.text)
	}
}

// What somebody has to decide ends the start.
func TestFolder_IsNobodysElse(t *testing.T) {
	dir := t.TempDir()
	h := &house{cache: open(t, cache.Options{Dir: dir})}
	if _, err := cache.New(cache.Options{Dir: h.cache.Dir()}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("another one: %v", err)
	}
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.New(cache.Options{Dir: home}); !errors.Is(err, store.ErrForeign) {
		t.Errorf("somebody's home: %v", err)
	}
}

// The folder goes in the middle of a download: who reads gets the rest, and who
// comes in the middle gets all.
func TestFolder_GoesInMidDownload(t *testing.T) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	h.chunk = 1 << 20
	dir := filepath.Join(ocitest.MemoryDir(t), "cache")
	h.cache = open(t, cache.Options{Dir: dir, Now: h.clock})
	data := random(1, 6*mib)
	obj, s := h.addBlob("acme/app", data), h.source("acme", "a")
	c, err := s.Open(t.Context(), obj, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { c.Close() }()
	got := make([]byte, len(data)+1)
	n, err := c.Body.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if second, err := get(ctx, s, obj, oci.Range{}); err != nil || !bytes.Equal(second, data) {
		t.Errorf("who came in the middle: %d bytes, %v", len(second), err)
	}
	for err == nil && n < len(got) {
		var more int
		more, err = c.Body.Read(got[n:])
		n += more
	}
	if !bytes.Equal(got[:n], data) {
		t.Errorf("who read: %d bytes, %v", n, err)
	}
}

// What is pulled while the folder is opened anew waits for it, and is kept.
func TestFolder_OpenedAnewUnderPulls(t *testing.T) {
	var armed atomic.Bool
	entered, gate := make(chan struct{}), make(chan struct{})
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	dir := filepath.Join(ocitest.MemoryDir(t), "cache")
	h.cache = open(t, cache.Failing(cache.Options{Dir: dir, Now: h.clock}, func(op store.Op, _ string) error {
		if op == store.OpLock && armed.CompareAndSwap(true, false) {
			close(entered)
			<-gate
		}
		return nil
	}))
	s := h.source("acme", "a")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	var pulls sync.WaitGroup
	var done atomic.Int64
	for seed := range uint64(2) {
		data := random(seed, 6*mib)
		obj := h.addBlob("acme/app", data)
		pulls.Go(func() {
			if got, err := get(t.Context(), s, obj, oci.Range{}); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			done.Add(1)
		})
		<-entered // the second comes while the first one opens it
	}
	for range 2_000_000 {
		if done.Load() > 0 {
			break // that one did not wait
		}
		runtime.Gosched()
	}
	close(gate)
	pulls.Wait()
	h.settle()
	if n := h.cache.Numbers(); n.Blobs != 2 || n.Bypassed != 0 || n.Past != nil {
		t.Errorf("%+v", n)
	}
}

// Past the disk a piece is not handed out as the whole, whatever a registry sends.
func TestBypass_PieceIsNotTheWhole(t *testing.T) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	h.cache = open(t, cache.Options{Dir: ocitest.MemoryDir(t), Now: h.clock})
	h.piece = 10
	s := h.source("acme", "a")
	obj := h.addBlob("acme/app", random(1, 1000))
	h.cache.PastTheDisk()
	if got, err := get(t.Context(), s, obj, oci.Range{}); err == nil {
		t.Errorf("%d bytes of 1000, as all of them", len(got))
	}
	if got, err := get(t.Context(), s, obj, oci.Range{Start: 0, Length: 10}); err != nil || len(got) != 10 {
		t.Errorf("the piece that was asked for: %d bytes, %v", len(got), err)
	}
}

// Why pulls go past a disk that works is told for an hour, or until something as
// large has room.
func TestFolder_LackOfRoomIsTold(t *testing.T) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	log := &logged{}
	h.cache = open(t, cache.Options{Dir: ocitest.MemoryDir(t), Now: h.clock, MaxSize: mib, Log: slog.New(slog.NewTextHandler(log, nil))})
	s := h.source("acme", "a")
	for seed := range uint64(3) {
		data := random(seed, 2*mib)
		if got := read(t, s, h.addBlob("acme/app", data)); !bytes.Equal(got, data) {
			t.Errorf("%d bytes", len(got))
		}
	}
	n := h.cache.Numbers()
	if n.Past == nil || n.Past.Reason != cache.PastReason(store.LackLimit) || n.Past.Bytes != 2*mib || !n.Writable || n.Bypassed != 3 {
		t.Errorf("%+v", n)
	}
	if got := log.count("a download goes past the disk"); got != 1 {
		t.Errorf("it was said %d times:\n%s", got, &log.text)
	}
	h.advance(cache.LackFor)
	if n := h.cache.Numbers(); n.Past != nil {
		t.Errorf("%+v", n.Past)
	}
}

// Room that comes back is used for a blob that had none, when the rest of the disk is
// over: only a blob whose size nobody knows is not tried for longer.
func TestFolder_RoomThatComesBackIsUsed(t *testing.T) {
	var none atomic.Bool
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	h.cache = open(t, cache.Failing(cache.Options{Dir: ocitest.MemoryDir(t), Now: h.clock}, func(op store.Op, _ string) error {
		if none.Load() && op == store.OpMake {
			return &store.NoRoom{Bytes: 2 * mib, Lack: store.LackInodes}
		}
		return nil
	}))
	s := h.source("acme", "a")
	data := random(1, 2*mib)
	obj := h.addBlob("acme/app", data)
	none.Store(true)
	if got := read(t, s, obj); !bytes.Equal(got, data) || h.cache.Numbers().Past == nil {
		t.Fatalf("%d bytes, past the disk: %+v", len(got), h.cache.Numbers().Past)
	}
	none.Store(false)
	h.advance(cache.DiskRest)
	for range 2 {
		if got := read(t, s, obj); !bytes.Equal(got, data) {
			t.Errorf("%d bytes", len(got))
		}
		h.settle()
	}
	if n := h.cache.Numbers(); n.Past != nil || n.Blobs != 1 {
		t.Errorf("it is not kept: %+v", n)
	}
}

// A facts.db that comes back with its folder does not know what was denied
// meanwhile: it goes, so that the next start revives nothing. The one that is in use
// stays.
func TestFolder_BringsNoOldFactsBack(t *testing.T) {
	parent := ocitest.MemoryDir(t)
	dir, aside := filepath.Join(parent, "cache"), filepath.Join(parent, "aside")
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	data := random(1, 1000)
	obj := h.addBlob("acme/app", data)
	first, err := cache.New(cache.Options{Dir: dir, Now: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	h.cache = first
	read(t, h.source("acme", "a"), obj)
	if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	first.Look()
	if _, err := os.Stat(filepath.Join(dir, "facts.db")); err != nil {
		t.Errorf("the one in use: %v", err)
	}
	if err := errors.Join(first.Close(), os.Rename(dir, aside), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	h.cache = open(t, cache.Options{Dir: dir, Now: h.clock})
	read(t, h.source("acme", "a"), obj)
	if err := errors.Join(os.Remove(dir), os.Rename(aside, dir)); err != nil {
		t.Fatal(err)
	}
	h.cache.Look()
	if _, err := os.Stat(filepath.Join(dir, "facts.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an old one: %v", err)
	}
	if n := h.cache.Numbers(); !n.Writable {
		t.Errorf("%+v", n)
	}
}

// An operation on the disk does not return. Who is in the middle of it is lost to it;
// everybody after that goes past the disk, and it is used again when it answers.
func TestFolder_Hangs(t *testing.T) {
	for _, op := range []store.Op{store.OpMake, store.OpOpen, store.OpWrite, store.OpStat, store.OpSpace} {
		t.Run(string(op), func(t *testing.T) {
			dir := filepath.Join(ocitest.MemoryDir(t), "cache")
			synctest.Test(t, func(t *testing.T) { hangs(t, dir, op) })
		})
	}
}

func hangs(t *testing.T, dir string, op store.Op) {
	t.Helper()
	var on atomic.Bool
	back := make(chan struct{})
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	log := &logged{}
	h.cache = open(t, cache.Failing(cache.Options{Dir: dir, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil)), Limits: func(int64) (int64, int64, error) { return 64 * mib, 0, nil }},
		func(o store.Op, _ string) error {
			if o == op && on.Load() {
				<-back
			}
			return nil
		}))
	s := h.source("acme", "a")
	data := random(1, 6*mib)
	kept := h.addBlob("acme/app", data)
	read(t, s, kept)
	time.Sleep(time.Second)
	if n := h.cache.Numbers(); n.Blobs != 1 {
		t.Fatalf("%+v", n)
	}

	on.Store(true)
	victim := make(chan struct{})
	second := h.addBlob("acme/app", random(2, 6*mib))
	go func() {
		defer close(victim)
		content, err := s.Open(t.Context(), second, oci.Range{})
		if err == nil {
			content.Close()
		}
	}()
	time.Sleep(20 * time.Second)
	for seed := range uint64(3) {
		begin, blob := time.Now(), random(3+seed, 6*mib)
		if got := read(t, s, h.addBlob("acme/app", blob)); !bytes.Equal(got, blob) || time.Since(begin) > time.Second {
			t.Errorf("%d bytes after %v", len(got), time.Since(begin))
		}
	}
	if got := read(t, s, kept); !bytes.Equal(got, data) {
		t.Errorf("what is kept: %d bytes", len(got))
	}
	if n := h.cache.Numbers(); n.Writable || n.Past == nil || n.Past.Reason != cache.PastUnusable || !strings.Contains(n.Past.Err.Error(), "does not answer for ") {
		t.Errorf("%+v", n)
	}
	on.Store(false)
	close(back)
	<-victim
	time.Sleep(time.Minute)
	if n := h.cache.Numbers(); !n.Writable || n.Past != nil {
		t.Errorf("it answers again, and: %+v", n)
	}
	before := h.cache.Numbers().Blobs
	read(t, s, h.addBlob("acme/app", random(9, 6*mib)))
	time.Sleep(time.Second)
	if now := h.cache.Numbers().Blobs; now != before+1 {
		t.Errorf("%d blobs are kept, want one more than %d", now, before)
	}
}

// A folder that hangs at the start is waited for for a moment, and used when it answers.
func TestFolder_HangsAtTheStart(t *testing.T) {
	dir := filepath.Join(ocitest.MemoryDir(t), "cache")
	synctest.Test(t, func(t *testing.T) {
		back := make(chan struct{})
		h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
		log := &logged{}
		begin := time.Now()
		h.cache = open(t, cache.Failing(cache.Options{Dir: dir, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil))}, func(store.Op, string) error {
			<-back
			return nil
		}))
		if took := time.Since(begin); took > 10*time.Second || log.count("cannot be used") != 1 {
			t.Errorf("after %v:\n%s", took, &log.text)
		}
		s, data := h.source("acme", "a"), random(1, 6*mib)
		begin = time.Now()
		if got := read(t, s, h.addBlob("acme/app", data)); !bytes.Equal(got, data) || time.Since(begin) > time.Second {
			t.Errorf("%d bytes after %v", len(got), time.Since(begin))
		}
		if n := h.cache.Numbers(); n.Writable || n.Past == nil || !strings.Contains(n.Past.Err.Error(), "does not answer for ") {
			t.Errorf("%+v", n)
		}
		close(back)
		synctest.Wait()
		if n := h.cache.Numbers(); !n.Writable || log.count("can be used again") != 1 {
			t.Errorf("%+v:\n%s", n, &log.text)
		}
	})
}
