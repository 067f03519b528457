package download

import (
	"context"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"

	"berth/cache/store"
	"berth/oci"
)

// bodyAsker is an Asker with a right to one blob, which comes as body.
type bodyAsker struct {
	provenAsker

	size int64
	body io.ReadCloser
}

func (a bodyAsker) Open(context.Context, oci.Range) (*oci.Content, error) {
	return &oci.Content{Descriptor: oci.Descriptor{Size: a.size}, Length: a.size, Body: a.body}, nil
}

// oddBody begins with what net/http has read behind a header, and then gives all
// that is asked for.
type oddBody struct{ left, first int64 }

func (b *oddBody) Read(p []byte) (int, error) {
	n := min(b.left, int64(len(p)))
	if b.first > 0 {
		n, b.first = min(n, b.first), 0
	}
	clear(p[:n])
	if b.left -= n; b.left == 0 {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (*oddBody) Close() error { return nil }

// What is written does not straddle pages, however the first read ended.
func TestDownload_WritesWholePages(t *testing.T) {
	var writes atomic.Int64
	s, err := store.Open(t.TempDir(), store.Options{Fault: func(op store.Op, path string) error {
		if op == store.OpWrite && filepath.Base(filepath.Dir(path)) == "tmp" {
			writes.Add(1)
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	table := NewTable(Options{Store: func() *store.Store { return s }, Report: nobody{}})
	defer table.Close()
	const size, odd = 4 << 20, 3663
	digest := oci.DigestOf(make([]byte, size))
	c, err := table.Join(t.Context(), Request{
		Key: Key{Origin: "a.example", Digest: digest}, Asker: bodyAsker{size: size, body: &oddBody{left: size, first: odd}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Body.Close()
	if n, err := io.Copy(io.Discard, c.Body); n != size || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	// The odd piece and the rest of its buffer, then whole ones. Of a blob of this size no
	// notes are taken.
	if got, want := writes.Load(), int64(1+size/copyBuffer); got != want {
		t.Errorf("%d writes, want %d", got, want)
	}
}
