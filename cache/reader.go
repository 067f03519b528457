package cache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"berth/cache/store"
	"berth/oci"
)

// reader is one client that reads from a fill, with a descriptor of its own so
// that the kernel can send from its position. It is the Body of a Content, and
// so used by one goroutine at a time.
type reader struct {
	fill    *fill
	sponsor *sponsor
	want    oci.Range

	ctx    context.Context // bounds the waiting in Read; set by content
	blocks *store.Blocks
	file   *os.File
	// held: the last byte waits until all bytes are verified. A reader of a
	// bounded range checks what it got by itself, chunk by chunk.
	held bool
	// past is where the bytes come from since the disk failed; nil: it has not.
	past io.ReadCloser

	// Guarded by the fill's mutex.
	pos     int64
	waiting bool
	left    bool
}

// content opens the reader. ctx bounds all its reading.
func (rd *reader) content(ctx context.Context) (*oci.Content, error) {
	f := rd.fill
	rd.ctx, rd.blocks = ctx, f.blocks
	size := rd.blocks.Size()
	rd.held = !rd.want.Bounded() || size < 0
	if rd.blocks.Verified() && (f.key.kind == oci.Manifest || size <= hotBlob) {
		return rd.fromMemory(size)
	}
	file, err := rd.blocks.OpenReader()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !rd.blocks.Gone() {
			return nil, errAgain // the fill ends, or what it published is evicted already
		}
		return nil, diskError(err)
	}
	rd.file = file
	c := &oci.Content{
		Descriptor: oci.Descriptor{MediaType: blobType, Digest: f.key.digest, Size: size},
		Length:     size,
		Body:       rd,
	}
	if size < 0 {
		c.Body = struct{ io.ReadCloser }{rd} // it cannot seek: nobody knows the end
	}
	return c, nil
}

// fromMemory gives a small verified object as bytes, and leaves the fill.
func (rd *reader) fromMemory(size int64) (*oci.Content, error) {
	o := rd.sponsor.object
	s := rd.sponsor.source
	if e, ok := s.c.hot.get(hotKey{s.origin, o.Digest}); ok && (o.Kind == oci.Blob || e.mediaType != "") {
		rd.leave()
		return e.content(o), nil
	}
	file, err := rd.blocks.OpenReader()
	if err != nil {
		return nil, errAgain
	}
	defer closeBody(file)
	data := make([]byte, size)
	if _, err := io.ReadFull(file, data); err != nil {
		return nil, errAgain
	}
	content, err := s.keepHot(o, data)
	if err == nil {
		rd.leave()
	}
	return content, err
}

// end is where the reader's interest ends, in a blob of size bytes. Caller
// holds the fill's mutex, or is the reader.
func (rd *reader) end(size int64) int64 {
	if rd.want.Length > 0 && rd.want.Start >= 0 {
		return min(rd.want.Start+rd.want.Length, size)
	}
	return size
}

// start is where its interest begins.
func (rd *reader) start(size int64) int64 {
	if rd.want.Start < 0 {
		return max(size+rd.want.Start, 0)
	}
	return rd.want.Start
}

// Read waits for bytes at the position and gives them. Its error is io.EOF only
// after the last byte, which an unbounded reader gets only of a verified blob.
func (rd *reader) Read(p []byte) (int, error) {
	n, err := rd.wait()
	if err != nil {
		return 0, err
	}
	if rd.past != nil {
		got, err := rd.past.Read(p)
		rd.Moved(int64(got))
		return got, err
	}
	got, err := rd.file.Read(p[:min(int64(len(p)), n)])
	rd.Moved(int64(got))
	return got, unread(err)
}

// wait says how many bytes can be read at the position, at least one. When the disk
// has failed it leads past it.
func (rd *reader) wait() (n int64, err error) {
	if rd.past != nil {
		if n = rd.end(rd.blocks.Size()) - rd.pos; n <= 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	if n, err = rd.blocks.Ready(rd.pos, rd.held); n == 0 && err == nil {
		rd.setWaiting(true)
		n, err = rd.blocks.Wait(rd.ctx, rd.pos, rd.held)
		rd.setWaiting(false)
	}
	if !errors.Is(err, errDisk) {
		return n, err
	}
	if rd.past, err = rd.detour(err); err != nil {
		return 0, err
	}
	return rd.wait()
}

// detour is where the reader goes on when its fill has failed with cause.
func (rd *reader) detour(cause error) (io.ReadCloser, error) {
	size := rd.blocks.Size()
	if size < 0 || rd.want.Sparse || rd.held && rd.start(size) > 0 {
		return nil, cause
	}
	sp := rd.sponsor
	return sp.source.detour(rd.ctx, sp.key.view, sp.object, rest{rd.file, rd.pos, rd.end(size), size, rd.held}, cause)
}

func (rd *reader) setWaiting(w bool) {
	rd.fill.mu.Lock()
	rd.waiting = w
	rd.fill.mu.Unlock()
	if w {
		rd.fill.wake()
		rd.fill.hurry(rd)
	}
}

// Seek moves the position; the blob's size must be known.
func (rd *reader) Seek(offset int64, whence int) (int64, error) {
	if rd.past != nil {
		return 0, errNoSeek
	}
	switch whence {
	case io.SeekCurrent:
		offset += rd.pos
	case io.SeekEnd:
		offset += rd.blocks.Size()
	}
	pos, err := rd.file.Seek(offset, io.SeekStart)
	if err != nil {
		return 0, err
	}
	rd.moveTo(pos)
	return pos, nil
}

func (rd *reader) moveTo(pos int64) {
	rd.fill.mu.Lock()
	defer rd.fill.mu.Unlock()
	rd.pos = pos
}

// Piece is the next part that is there, for sendfile.
func (rd *reader) Piece(limit int64) (io.Reader, error) {
	n, err := rd.wait()
	if err != nil {
		return nil, err
	}
	if rd.past != nil {
		return io.LimitReader(rd.past, min(limit, n)), nil
	}
	return io.LimitReader(rd.file, min(limit, n)), nil
}

// Moved says how much of a piece was sent.
func (rd *reader) Moved(n int64) { rd.moveTo(rd.pos + n) }

// Close leaves the fill. What was fetched stays.
func (rd *reader) Close() error {
	rd.leave()
	if rd.past != nil {
		closeBody(rd.past)
	}
	return rd.file.Close()
}

// leave counts the reader out.
func (rd *reader) leave() {
	f := rd.fill
	f.mu.Lock()
	defer f.mu.Unlock()
	if rd.left {
		return
	}
	rd.left = true
	delete(f.readers, rd)
	rd.sponsor.readers--
	if len(f.readers) == 0 {
		f.idleSince = time.Now()
	}
	f.wake()
}
