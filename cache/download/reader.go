package download

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

// Reader is one client's position in a download, with a descriptor of its own so
// that the kernel can send from there. It is the Body of a Content, and so used by
// one goroutine at a time.
type Reader struct {
	download  *Download
	requester *requester
	want      oci.Range

	ctx    context.Context // bounds the waiting in Read; set by content
	blocks *store.Blocks
	file   *os.File
	// held: the last byte waits until all bytes are verified. A reader of a bounded
	// range checks what it got by itself, chunk by chunk.
	held bool
	// bypass is where the bytes come from since the disk failed; nil: it has not.
	bypass io.ReadCloser

	// Guarded by the download's lock.
	pos     int64
	waiting bool
	left    bool
}

// content opens the reader. ctx bounds all its reading.
func (rd *Reader) content(ctx context.Context) (*oci.Content, error) {
	d := rd.download
	d.mu.Lock()
	rd.ctx, rd.blocks = ctx, d.blocks
	d.mu.Unlock()
	size := rd.blocks.Size()
	rd.held = !rd.want.Bounded() || size < 0
	file, err := rd.blocks.OpenReader()
	if err != nil {
		switch {
		case rd.blocks.Err() != nil:
			d.awaitFinal(ctx) // who is told comes back at once, and must not find this download again
			return nil, rd.requester.errorFor(rd.blocks.Err())
		case errors.Is(err, fs.ErrNotExist) && !rd.blocks.Gone():
			return nil, ErrRetry // published, and evicted already
		}
		return nil, store.DiskError(err)
	}
	rd.file = file
	c := &oci.Content{
		Descriptor: oci.Descriptor{MediaType: oci.MediaTypeBlob, Digest: d.key.Digest, Size: size},
		Length:     size,
		Body:       rd,
	}
	if size < 0 {
		c.Body = struct{ io.ReadCloser }{rd} // it cannot seek: nobody knows the end
	}
	return c, nil
}

// end is where the reader's interest ends, in a blob of size bytes.
func (rd *Reader) end(size int64) int64 {
	if rd.want.Length > 0 && rd.want.Start >= 0 {
		return min(rd.want.Start+rd.want.Length, size)
	}
	return size
}

// start is where its interest begins.
func (rd *Reader) start(size int64) int64 {
	if rd.want.Start < 0 {
		return max(size+rd.want.Start, 0)
	}
	return rd.want.Start
}

// Read waits for bytes at the position and gives them. Its error is io.EOF only
// after the last byte, which an unbounded reader gets only of a verified blob.
func (rd *Reader) Read(p []byte) (int, error) {
	n, err := rd.await()
	if err != nil {
		return 0, err
	}
	if rd.bypass != nil {
		got, err := rd.bypass.Read(p)
		rd.Moved(int64(got))
		return got, err
	}
	got, err := rd.file.Read(p[:min(int64(len(p)), n)])
	rd.Moved(int64(got))
	return got, store.ReadError(err)
}

// await says how many bytes can be read at the position, at least one. When the
// disk has failed it leads past it.
func (rd *Reader) await() (n int64, err error) {
	if rd.bypass != nil {
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
	if !errors.Is(err, store.ErrDisk) {
		return n, err
	}
	if rd.bypass, err = rd.openBypass(err); err != nil {
		return 0, err
	}
	return rd.await()
}

// openBypass is where the reader goes on when its download has failed with cause.
func (rd *Reader) openBypass(cause error) (io.ReadCloser, error) {
	size := rd.blocks.Size()
	if size < 0 || rd.want.Sparse || rd.held && rd.start(size) > 0 {
		return nil, cause
	}
	rest := Rest{File: rd.file, Pos: rd.pos, End: rd.end(size), Size: size, Whole: rd.held}
	return rd.requester.want.Asker.Bypass(rd.ctx, rest, cause)
}

func (rd *Reader) setWaiting(w bool) {
	d := rd.download
	d.mu.Lock()
	defer d.mu.Unlock()
	rd.waiting = w
	if w {
		d.nudge()
		d.prioritise(rd)
	}
}

// Seek moves the position; the blob's size must be known.
func (rd *Reader) Seek(offset int64, whence int) (int64, error) {
	if rd.bypass != nil {
		return 0, ErrNoSeek
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

// ErrNoSeek is for a reader that would go back where the bytes come past the disk.
var ErrNoSeek = errors.New("past the disk a blob is read in one go")

func (rd *Reader) moveTo(pos int64) {
	rd.download.mu.Lock()
	defer rd.download.mu.Unlock()
	rd.pos = pos
}

// Piece is the next part that is there, for sendfile.
func (rd *Reader) Piece(limit int64) (io.Reader, error) {
	n, err := rd.await()
	if err != nil {
		return nil, err
	}
	if rd.bypass != nil {
		return io.LimitReader(rd.bypass, min(limit, n)), nil
	}
	return io.LimitReader(rd.file, min(limit, n)), nil
}

// Moved says how much of a piece was sent.
func (rd *Reader) Moved(n int64) { rd.moveTo(rd.pos + n) }

// Close leaves the download. What was fetched stays.
func (rd *Reader) Close() error {
	rd.leave()
	if rd.bypass != nil {
		_ = rd.bypass.Close() // what was read from it was checked
	}
	return rd.file.Close()
}

// leave counts the reader out.
func (rd *Reader) leave() {
	d := rd.download
	d.mu.Lock()
	defer d.mu.Unlock()
	if rd.left {
		return
	}
	rd.left = true
	delete(d.readers, rd)
	rd.requester.readers--
	if len(d.readers) == 0 {
		d.idleSince = time.Now()
	}
	d.nudge()
}
