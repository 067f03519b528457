package upstream

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"berth/oci"

	"berth/upstream/classify"
)

// What an encoding may be undone to: a kilobyte of deflate can stand for a megabyte of
// zeros. Real layers shrink to a tenth or, where they are mostly zeros, a hundredth.
const (
	maxRatio  = 200
	freePlain = 64 << 20 // whatever the ratio
)

// decoder undoes an encoding; nil where the name is only a label that somebody put
// there, such as the aws-chunked of S3's uploads: it does not change what the bytes are.
func decoder(name string) func(io.Reader) (io.Reader, error) {
	switch name {
	case "gzip", "x-gzip":
		return func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case "deflate": // RFC 9110, 8.4.1.2: the zlib format
		return func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }
	}
	return nil
}

// encoding is the Content-Encoding of an answer as far as it can be undone; empty for
// none. We only accept identity, but registry.access.redhat.com and Quay have
// compressed small documents all the same.
func encoding(h http.Header) string {
	for _, value := range h.Values("Content-Encoding") {
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); decoder(name) != nil {
				return name
			}
		}
	}
	return ""
}

// decode undoes an encoding, up to limit bytes. ok is false where data is not what
// the label says, or is larger than that when it is undone.
func decode(name string, data []byte, limit int64) (plain []byte, ok bool) {
	z, err := decoder(name)(bytes.NewReader(data))
	if err != nil {
		return nil, false
	}
	plain, err = readUpTo(z, limit+1)
	return plain, err == nil && int64(len(plain)) <= limit
}

var errSwells = errors.New("it is undone to far more than it is itself")

// plain is what comes out when an encoding is undone, as far as it is not out of all
// proportion to what went in, and as long as ctx lasts: what is in memory would else
// be undone to its end although nobody waits for it any more.
type plain struct {
	ctx  context.Context
	from io.Reader // what is encoded
	z    io.Reader
	in   int64
	out  int64
}

// undo undoes the encoding of what comes from from. It may read a few kilobytes more
// of it than it needs.
func undo(ctx context.Context, name string, from io.Reader) (*plain, error) {
	p := &plain{ctx: ctx, from: from}
	var err error
	p.z, err = decoder(name)(bufio.NewReader(counted{p}))
	return p, err
}

// Read reads what came out.
func (p *plain) Read(b []byte) (int, error) {
	switch {
	case p.ctx.Err() != nil:
		return 0, p.ctx.Err()
	case p.out > freePlain+maxRatio*p.in:
		return 0, errSwells
	}
	n, err := p.z.Read(b)
	p.out += int64(n)
	return n, err
}

// counted counts what goes in.
type counted struct{ *plain }

// Read reads what is encoded.
func (e counted) Read(b []byte) (int, error) {
	n, err := e.from.Read(b)
	e.in += int64(n)
	return n, err
}

// versions are what a small answer may mean: as it came, since some storages
// call a compressed layer's own compression a Content-Encoding, and decoded.
// The digest tells which.
func versions(h http.Header, data []byte) [][]byte {
	if name := encoding(h); name != "" {
		if plain, ok := decode(name, data, max(maxSmall, int64(len(data)))); ok {
			return [][]byte{plain, data}
		}
	}
	return [][]byte{data}
}

// labels remembers for hosts whether what they call encoded is.
type labels struct {
	mu      sync.Mutex
	encoded map[string]bool // of what is large
	small   map[string]bool // has sent something small that was encoded
}

func (l *labels) of(host string) (encoded, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	encoded, known = l.encoded[host]
	return encoded, known
}

func (l *labels) learn(host string, encoded bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.encoded == nil || len(l.encoded) >= keptHosts {
		l.encoded = map[string]bool{}
	}
	l.encoded[host] = encoded
}

func (l *labels) learnSmall(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.small == nil || len(l.small) >= keptHosts {
		l.small = map[string]bool{}
	}
	l.small[host] = true
}

// encodes says whether anything that a host sent was encoded.
func (l *labels) encodes(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.encoded[host] || l.small[host]
}

func (l *labels) forget(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.encoded, host)
}

// doubtful says whether a whole blob may be something else than it says: an encoding
// that nobody asked for, which may be only a label, or a web page, which may be a blob
// that a server of static files does not know. The digest decides.
func doubtful(a *answer) bool {
	return a.StatusCode == http.StatusOK && (encoding(a.Header) != "" || classify.IsPage(a.Header))
}

// settled is the Content of a doubtful answer to a request for the whole of o. Small
// ones are read and held against the digest. A large one with an encoding is read
// twice, once to find out what it is, unless that is known of its host: of a layer
// that is compressed itself, and of one that is not, the beginning looks the same.
func (s *source) settled(ctx context.Context, a *answer, o oci.Object, whole func(context.Context) (*answer, error)) (*oci.Content, error) {
	begin, err := readUpTo(a.Body, maxSmall+1)
	if err != nil {
		_ = a.Body.Close()
		return nil, err
	}
	if len(begin) <= maxSmall {
		_ = a.Body.Close()
		return s.small(ctx, a, o, begin)
	}
	if a.ContentLength >= 0 {
		a.body.promise(a.ContentLength - int64(len(begin)))
	}
	name, host, all := encoding(a.Header), s.hostOf(a), io.MultiReader(bytes.NewReader(begin), a.Body)
	if name == "" || !isEncoded(name, begin) { // no page is that large
		return s.streamed(ctx, a, o, all, ""), nil
	}
	encoded, known := s.labels.of(host)
	if known {
		return s.streamed(ctx, a, o, all, choose(encoded, name)), nil
	}
	encoded, err = which(ctx, name, o, all)
	_ = a.Body.Close()
	if err != nil {
		return nil, a.body.who.aboutBlob(err)
	}
	s.labels.learn(host, encoded)
	if a, err = whole(ctx); err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, s.refused(ctx, a, blobCall(opBlob, o, ""))
	}
	a.body.promise(a.ContentLength)
	return s.streamed(ctx, a, o, a.Body, choose(encoded, encoding(a.Header))), nil
}

// hostOf is which host an answer came from.
func (r *Registry) hostOf(a *answer) string {
	if a.target != nil {
		return a.target.Host
	}
	return r.url.Host
}

func choose(is bool, name string) string {
	if is {
		return name
	}
	return ""
}

// small is the Content of an answer that has been read into memory, and may be another
// document. Undoing its encoding may give more than fits into memory: that is streamed.
func (s *source) small(ctx context.Context, a *answer, o oci.Object, data []byte) (*oci.Content, error) {
	if plain, _, ok := match(versions(a.Header, data), o.Digest); ok {
		if len(plain) != len(data) {
			s.labels.learnSmall(s.hostOf(a))
		}
		return inHand(a, o, plain), nil
	}
	name := encoding(a.Header)
	switch {
	case classify.IsPage(a.Header):
		return nil, a.body.who.notUnderstood("sent a web page instead of a blob; check that its endpoint is a registry, and who is between")
	case name == "":
		return nil, a.body.who.notUnderstood("sent something else than the blob %s; try again", o.Digest)
	}
	if encoded, err := which(ctx, name, o, bytes.NewReader(data)); err != nil || !encoded {
		return nil, a.body.who.notUnderstood("sent a blob with Content-Encoding %.40q, which nobody asked for", name)
	}
	s.labels.learnSmall(s.hostOf(a))
	return s.streamed(ctx, a, o, bytes.NewReader(data), name), nil
}

func inHand(a *answer, o oci.Object, data []byte) *oci.Content {
	size := int64(len(data))
	return &oci.Content{
		Descriptor: oci.Descriptor{Digest: o.Digest, Size: size, MediaType: oci.MediaTypeBlob},
		Outcome:    outcome(a), Length: size, Body: io.NopCloser(bytes.NewReader(data)),
	}
}

// isEncoded says whether data begins as the encoding does.
func isEncoded(name string, data []byte) bool {
	z, err := decoder(name)(bytes.NewReader(data))
	if err != nil {
		return false
	}
	_, err = io.CopyN(io.Discard, z, 512)
	return err == nil
}

var errNeither = errors.New("neither as it came nor decoded has it the right digest")

// which reads a body to its end and says whether o is what it came as, or what comes
// out when the encoding is undone.
func which(ctx context.Context, name string, o oci.Object, from io.Reader) (encoded bool, err error) {
	raw, plain := o.Digest.Verifier(), o.Digest.Verifier()
	tee := io.TeeReader(from, raw)
	z, err := undo(ctx, name, tee)
	if err == nil {
		_, err = io.Copy(plain, z)
	}
	undone := err == nil
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return false, err
	}
	switch {
	case raw.Verified():
		return false, nil
	case undone && plain.Verified():
		return true, nil
	}
	return false, errNeither
}

// streamed is the Content of an answer whose bytes come from from, with an encoding
// undone unless name is empty. What comes out is held against the digest, so that a
// host which is not as it was is looked at anew.
func (s *source) streamed(ctx context.Context, a *answer, o oci.Object, from io.Reader, name string) *oci.Content {
	size, host := a.ContentLength, s.hostOf(a)
	b := &decodedBody{a: a, from: from, digest: o.Digest.Verifier(), wrong: func() { s.labels.forget(host) }}
	if name != "" {
		size = -1
		b.undo = func() (io.Reader, error) { return undo(ctx, name, from) }
	}
	return &oci.Content{
		Descriptor: oci.Descriptor{Digest: o.Digest, Size: size, MediaType: oci.MediaTypeBlob},
		Outcome:    outcome(a), Length: size, Body: b,
	}
}

// decodedBody is a body whose encoding is undone while it is read.
type decodedBody struct {
	a      *answer
	from   io.Reader
	undo   func() (io.Reader, error) // nil: once it has begun, or for none
	digest digest.Verifier
	wrong  func()
}

func (b *decodedBody) Read(p []byte) (int, error) {
	if b.undo != nil {
		z, err := b.undo()
		if err != nil {
			b.wrong()
			return 0, b.a.body.who.aboutBlob(err)
		}
		b.from, b.undo = z, nil
	}
	n, err := b.from.Read(p)
	_, _ = b.digest.Write(p[:n]) // a hash takes everything
	switch {
	case errors.Is(err, io.EOF) && !b.digest.Verified():
		b.wrong()
	case err != nil && !errors.Is(err, io.EOF):
		b.wrong()
		return n, b.a.body.who.aboutBlob(err)
	}
	return n, err
}

func (b *decodedBody) Close() error { return b.a.Body.Close() }

// aboutBlob is err, of a body or of what undoes its encoding, as what the caller is
// told.
func (w asker) aboutBlob(err error) error {
	if _, ok := errors.AsType[*oci.Error](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return w.corrupt("sent a blob whose Content-Encoding cannot be undone; try again")
}
