package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"berth/cache"
	"berth/cache/store"
	"berth/oci"
)

// failing are the ways in which a download ends badly for its reader, each of an
// object with so many bytes.
var failing = map[string]struct {
	size int
	set  func(*origin)
	// file: what has come is of no use, and is deleted.
	file bool
}{
	"wrong bytes": {6 * mib, func(o *origin) {
		o.body = func(_ call, b []byte) io.Reader {
			b = bytes.Clone(b)
			b[len(b)-1] ^= 1
			return bytes.NewReader(b)
		}
	}, true},
	"no room for the rest": {9 * mib, func(o *origin) { o.noLength = true }, true},
	"cut again and again":  {6 * mib, func(o *origin) { o.body = cut(100, 1000) }, false},
	"refused":              {6 * mib, func(o *origin) { o.private["acme/app"] = []string{} }, false},
	"broken":               {6 * mib, func(o *origin) { o.fault = func(call) error { return errors.New("out of order") } }, false},
}

// A client that is told of a download's end comes back at once. What the download
// held is there for it by then: while the file is still being deleted, or the turn
// given back, no reader has been woken.
func TestDownload_GivesAllBackBeforeItsReadersWake(t *testing.T) {
	for name, c := range failing {
		holds := []string{"turn"}
		if c.file {
			holds = append(holds, "file")
		}
		for _, held := range holds {
			t.Run(name+"/"+held, func(t *testing.T) {
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) { endsBehind(t, dir, held, c.size, c.set) })
			})
		}
	}
}

func endsBehind(t *testing.T, dir, held string, size int, set func(*origin)) {
	h := &house{origin: newOrigin(t), id: oci.Origin{Scheme: "https", Host: "registry.example"}}
	gate := make(chan struct{})
	var reached atomic.Bool
	var taken atomic.Int32
	wait := func(at string) {
		if at == held {
			reached.Store(true)
			<-gate
		}
	}
	o := cache.Options{Dir: dir, Now: h.clock, MaxSize: 8 * mib, Admit: func(context.Context, string) (func(), error) {
		taken.Add(1)
		return func() { wait("turn"); taken.Add(-1) }, nil
	}}
	c, err := cache.New(cache.Failing(o, func(op store.Op, path string) error {
		if op == store.OpRemove && filepath.Dir(path) == filepath.Join(dir, "tmp") {
			wait("file")
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	h.cache = c
	obj := h.addBlob("acme/app", random(70, size))
	set(h.origin)
	told := make(chan error, 1)
	go func() {
		_, err := get(t.Context(), h.source("acme", "a"), obj, oci.Range{})
		told <- err
	}()
	for range 60 { // through the pauses between tries
		synctest.Wait()
		if reached.Load() {
			break
		}
		time.Sleep(time.Second) // of the bubble
	}
	select {
	case err := <-told:
		t.Errorf("told before the %s was given back (%v): %v", held, reached.Load(), err)
		told <- err
	default:
		if !reached.Load() {
			t.Errorf("nothing gives back the %s", held)
		}
	}
	close(gate)
	if err := <-told; err == nil {
		t.Error("no error")
	}
	if n := c.Numbers(); n.Fills != 0 || taken.Load() != 0 || n.Bytes > mib {
		t.Errorf("%d downloads, %d turns, %d bytes are still held", n.Fills, taken.Load(), n.Bytes)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
