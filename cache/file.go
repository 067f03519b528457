package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"berth/cache/store"
	"berth/internal/descriptor"
	"berth/oci"
)

// cached is o as it lies in memory or on disk, or nil. Whether it may be served
// is not its business.
func (s *source) cached(o oci.Object) (*oci.Content, error) {
	if content := s.inMemory(o); content != nil {
		return content, nil
	}
	return s.onDisk(o)
}

// inMemory is o as it lies in memory, or nil.
func (s *source) inMemory(o oci.Object) *oci.Content {
	if e, ok := s.c.hot.Get(s.hotKey(o.Digest)); ok && (o.Kind == oci.Blob || e.mediaType != "") {
		now, last := s.c.o.Now().UnixNano(), e.touched.Load()
		if time.Duration(now-last) >= touchEvery && e.touched.CompareAndSwap(last, now) {
			s.c.folder.store().Use(s.place.folder, o.Digest)
		}
		return e.content(o)
	}
	return nil
}

// onDisk is o as it lies on disk, or nil. What is small is read into memory.
func (s *source) onDisk(o oci.Object) (*oci.Content, error) {
	file, size, err := s.c.folder.store().OpenBlob(s.place.folder, o.Digest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case descriptor.Exhausted(err): // it is there, and stays there
		s.c.trouble.noDescriptor(err)
		return nil, descriptor.Error(err)
	case err != nil:
		s.c.o.Log.Warn("a cached blob cannot be opened and is fetched again", "digest", o.Digest, "err", err)
		return nil, nil
	case o.Kind == oci.Manifest || size <= hotBlob:
		return s.load(o, file, size)
	}
	return &oci.Content{
		Descriptor: oci.Descriptor{MediaType: oci.MediaTypeBlob, Digest: o.Digest, Size: size},
		Length:     size,
		Body:       &fileBody{file: file, size: size},
	}, nil
}

// load reads a small object into memory. Its digest is checked on the way, so
// nothing that rotted on the disk gets there: a bad file is removed and fetched
// again.
func (s *source) load(o oci.Object, file *os.File, size int64) (*oci.Content, error) {
	defer func() { _ = file.Close() }() // only read from
	if size > oci.MaxManifest {
		return nil, notAManifest(o.Digest, errors.New("it is too large"))
	}
	data := make([]byte, size)
	_, err := io.ReadFull(file, data)
	if err == nil && !matches(o.Digest, data) {
		err = store.ErrMismatch
	}
	if err != nil {
		s.c.folder.store().Quarantine(s.place.folder, o.Digest, file, err)
		return nil, nil
	}
	return s.keepHot(o, data)
}

// keepHot puts verified bytes into memory and gives them as content.
func (s *source) keepHot(o oci.Object, data []byte) (*oci.Content, error) {
	e, err := s.remember(o, data)
	if err != nil {
		return nil, err
	}
	return e.content(o), nil
}

// remember puts verified bytes into memory.
func (s *source) remember(o oci.Object, data []byte) (hotEntry, error) {
	e := hotEntry{data: data, touched: &atomic.Int64{}}
	e.touched.Store(s.c.o.Now().UnixNano())
	if o.Kind == oci.Manifest {
		var err error
		if e.mediaType, err = s.mediaType(o, data); err != nil {
			return hotEntry{}, err
		}
	}
	s.c.hot.Add(s.u.Organisation, s.hotKey(o.Digest), e)
	return e, nil
}

// mediaType is that of a manifest, whose verified bytes are parsed once.
func (s *source) mediaType(o oci.Object, data []byte) (string, error) {
	if known, ok := s.c.parsed.Get(s.hotKey(o.Digest)); ok {
		return known.mediaType, known.err
	}
	known := parsed{size: int64(len(data))}
	if doc, err := oci.ParseManifest(data); err != nil {
		known.err = notAManifest(o.Digest, err) // a blob can be asked for as one, again and again
	} else {
		known.mediaType = doc.MediaType
	}
	s.c.parsed.Add(s.u.Organisation, s.hotKey(o.Digest), known)
	return known.mediaType, known.err
}

func (e hotEntry) content(o oci.Object) *oci.Content {
	mediaType := oci.MediaTypeBlob
	if o.Kind == oci.Manifest {
		mediaType = e.mediaType
	}
	return &oci.Content{
		Descriptor: oci.Descriptor{MediaType: mediaType, Digest: o.Digest, Size: int64(len(e.data)), Data: e.data},
		Length:     int64(len(e.data)),
	}
}

// describe says what o is if it is in memory or on disk, without opening it
// for reading where that is not needed; nil: it is not there. The error is that no
// file can be opened to find out.
func (s *source) describe(o oci.Object) (*oci.Descriptor, error) {
	if o.Kind == oci.Manifest {
		return s.describeManifest(o)
	}
	size, _, err := s.c.folder.store().Stat(s.place.folder, o.Digest)
	if err != nil {
		return nil, onlyExhausted(err)
	}
	return &oci.Descriptor{MediaType: oci.MediaTypeBlob, Digest: o.Digest, Size: size}, nil
}

// describeManifest reads what is not known since the start, and what has another size now.
func (s *source) describeManifest(o oci.Object) (*oci.Descriptor, error) {
	store := s.c.folder.store()
	known, ok := s.c.parsed.Get(s.hotKey(o.Digest))
	if _, hot := s.hotManifest(o.Digest); ok && !hot && known.err == nil {
		if size, _, err := store.Stat(s.place.folder, o.Digest); err == nil && size == known.size {
			store.Use(s.place.folder, o.Digest)
			return &oci.Descriptor{MediaType: known.mediaType, Digest: o.Digest, Size: size}, nil
		}
	}
	c, err := s.cached(o)
	if err != nil || c == nil {
		return nil, onlyExhausted(err)
	}
	return &c.Descriptor, nil
}

// onlyExhausted is err as an answer if it says that descriptors have run out.
func onlyExhausted(err error) error {
	if descriptor.Exhausted(err) {
		return descriptor.Error(err)
	}
	return nil
}

func matches(d oci.Digest, data []byte) bool {
	return d.Algorithm().FromBytes(data) == d
}

// notAManifest is about bytes that are what their digest says, and that nobody
// should get as a manifest. Another try gets the same bytes, for another pull that
// counts: 404 is what clients take as final.
func notAManifest(d oci.Digest, err error) error {
	return &oci.Error{
		Class: oci.UpstreamError, Status: http.StatusNotFound, Code: oci.CodeManifestUnknown,
		Message: fmt.Sprintf("%s cannot be used as an image manifest or index: %s", d, err),
	}
}
