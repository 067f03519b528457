package ocitest

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Noise is size incompressible bytes that depend on seed alone. They are made
// when read, at any offset, so a large Noise costs no memory.
func Noise(seed uint64, size int64) *io.SectionReader {
	return io.NewSectionReader(noise(seed), 0, size)
}

// Compressed is Noise that begins as gzip does, as real layers do.
func Compressed(seed uint64, size int64) []byte {
	data := make([]byte, size)
	_, _ = noise(seed).ReadAt(data, 0) // it never fails
	copy(data, []byte{0x1f, 0x8b})
	return data
}

// noise is splitmix64 in counter mode: word i is a mix of seed and i, so that
// any offset costs the same.
type noise uint64

// ReadAt never fails. It touches nothing but p, and tests with the race detector
// would spend most of their time watching it do so.
//
//go:norace
func (n noise) ReadAt(p []byte, off int64) (int, error) {
	var word [8]byte
	total := len(p)
	if skip := off % 8; skip != 0 {
		binary.LittleEndian.PutUint64(word[:], n.word(uint64(off/8)))
		k := copy(p, word[skip:])
		p, off = p[k:], off+int64(k)
	}
	i := uint64(off / 8)
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, n.word(i))
		p, i = p[8:], i+1
	}
	if len(p) > 0 {
		binary.LittleEndian.PutUint64(word[:], n.word(i))
		copy(p, word[:])
	}
	return total, nil
}

func (n noise) word(i uint64) uint64 {
	x := uint64(n)*0xd1342543de82ef95 + (i+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// minTar is the smallest valid layer: one header and the two closing blocks.
const minTar = 3 * 512

// layer is a tar archive of exactly size bytes with one file of noise in it,
// so that real clients can unpack it. Below minTar it is plain noise.
func layer(seed uint64, size int64) (io.ReaderAt, error) {
	if size < minTar {
		return noise(seed), nil
	}
	var head bytes.Buffer
	file := (size - minTar) / 512 * 512
	w := tar.NewWriter(&head)
	err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("noise-%016x", seed), Mode: 0o644, Size: file, Format: tar.FormatUSTAR})
	if err != nil {
		return nil, fmt.Errorf("writing a tar header for %d bytes: %w", file, err)
	}
	return tarred{head: head.Bytes(), body: noise(seed), end: 512 + file}, nil
}

// tarred is a header, a body of noise up to end, and zeros for ever.
type tarred struct {
	head []byte
	body noise
	end  int64
}

func (t tarred) ReadAt(p []byte, off int64) (int, error) {
	total := len(p)
	if off < int64(len(t.head)) {
		n := copy(p, t.head[off:])
		p, off = p[n:], off+int64(n)
	}
	if n := min(int64(len(p)), t.end-off); n > 0 {
		_, _ = t.body.ReadAt(p[:n], off-int64(len(t.head)))
		p = p[n:]
	}
	clear(p)
	return total, nil
}
