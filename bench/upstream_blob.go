package main

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// blob is a piece of the registry's noise, with bytes of its own in front.
type blob struct {
	head []byte
	size int64
}

// reader reads the blob.
func (b blob) reader(noise []byte) *blobReader { return &blobReader{head: b.head, all: noise[:b.size]} }

// blobReader is a blob as http.ServeContent wants it.
type blobReader struct {
	head, all []byte
	pos       int
}

// Read reads.
func (b *blobReader) Read(p []byte) (int, error) {
	if b.pos >= len(b.all) {
		return 0, io.EOF
	}
	from := b.all
	if b.pos < len(b.head) {
		from = b.head
	}
	n := copy(p, from[b.pos:])
	b.pos += n
	return n, nil
}

// Seek moves.
func (b *blobReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += int64(b.pos)
	case io.SeekEnd:
		offset += int64(len(b.all))
	}
	if offset < 0 {
		return 0, errors.New("a negative position")
	}
	b.pos = int(offset)
	return offset, nil
}

// send writes n bytes from memory as it is: a copy would cost the registry what
// is then missing to the peers, on the same cores.
func (b *blobReader) send(w io.Writer, n int64) (total int64, err error) {
	end := b.pos + int(n)
	for b.pos < end {
		from := b.all[b.pos:end]
		if b.pos < len(b.head) {
			from = b.head[b.pos:min(end, len(b.head))]
		}
		n, err := w.Write(from)
		b.pos += n
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// countedWriter counts what goes out.
type countedWriter struct {
	http.ResponseWriter

	bytes *atomic.Int64
}

// ReadFrom takes what http.ServeContent sends: a limited blobReader.
func (w *countedWriter) ReadFrom(src io.Reader) (n int64, err error) {
	piece, ok := src.(*io.LimitedReader)
	if !ok {
		return 0, errors.New("not what ServeContent sends")
	}
	b, ok := piece.R.(*blobReader)
	if !ok {
		return 0, errors.New("not a blob")
	}
	planned := piece.N
	w.bytes.Add(planned) // before: who has them all may ask at once
	n, err = b.send(w.ResponseWriter, planned)
	w.bytes.Add(n - planned)
	piece.N -= n
	return n, err
}
