package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"berth/oci"

	"berth/auth/token"
	"berth/upstream/classify"
)

// statBlob proves that a blob is there by asking for its first byte. HEAD is no
// way: it is redirected to URLs that are signed for GET, and public.ecr.aws
// answers 401 to every one.
func (s *source) statBlob(ctx context.Context, o oci.Object) (*oci.Content, error) {
	c := blobCall(opProbe, o, "bytes=0-0")
	a, err := s.asked(ctx, c, oci.Range{Length: 1}, s.do)
	if err != nil {
		return nil, err
	}
	p, err := s.measure(ctx, a, c, oci.Range{Length: 1})
	if err != nil {
		return nil, err
	}
	if !vouches(a, o) {
		if err := s.inspect(ctx, a, o); err != nil {
			return nil, err
		}
	}
	if encoding(a.Header) != "" {
		p.size = -1 // it is that of the encoding
	}
	_ = a.Body.Close() // a byte, or a whole blob that nobody wants
	return &oci.Content{
		Descriptor: oci.Descriptor{Digest: o.Digest, Size: p.size, MediaType: oci.MediaTypeBlob},
		Outcome:    outcome(a),
		Length:     p.size,
	}, nil
}

// vouches says whether an answer is about o by what it says: a piece that was asked
// for, or a 200 that names the digest. Any other 200 may be a document of another
// kind: a login page, or "account suspended" in JSON.
func vouches(a *answer, o oci.Object) bool {
	return a.StatusCode != http.StatusOK || a.ContentLength > maxSmall ||
		a.Header.Get("Docker-Content-Digest") == o.Digest.String() && !classify.IsPage(a.Header)
}

// inspect reads a 200 that may be a document of another kind. What is small is held
// against the digest; what is large is no such document.
func (s *source) inspect(ctx context.Context, a *answer, o oci.Object) error {
	data, over, err := a.slurp(maxSmall, smallLimit)
	if err != nil || over {
		return err
	}
	_, err = s.small(ctx, a, o, data)
	return err
}

// blobCall asks for a piece of a blob; for all of one without a byte. Every Range of that
// is beyond its end, and a 416 is no 2xx, which alone proves a right.
func blobCall(op operation, o oci.Object, rng string) *call {
	if isEmpty(o) {
		rng = ""
	}
	return &call{op: op, method: http.MethodGet, repo: o.Repo, path: "blobs/" + o.Digest.String(), accept: acceptBlob, rng: rng}
}

// openBlob opens a piece of a blob. The bytes are not verified here.
func (s *source) openBlob(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	return s.blobBy(ctx, o, r, s.do)
}

// blobBy opens a piece of a blob by an answer to ask.
func (s *source) blobBy(ctx context.Context, o oci.Object, r oci.Range, ask asking) (*oci.Content, error) {
	c := blobCall(opBlob, o, rangeHeader(r))
	a, err := s.asked(ctx, c, r, ask)
	if err != nil {
		return nil, err
	}
	if c.rng != "" && encoding(a.Header) != "" && a.StatusCode == http.StatusPartialContent {
		_ = a.Body.Close() // a part of an encoding is no part of the blob
		*c = *c.whole()
		if a, err = ask(ctx, c); err != nil {
			return nil, err
		}
	}
	if doubtful(a) {
		return s.settled(ctx, a, o, func(ctx context.Context) (*answer, error) { return ask(ctx, blobCall(opBlob, o, "")) })
	}
	content, err := s.content(ctx, a, c, o, r)
	if err != nil || vouches(a, o) {
		return content, err
	}
	return s.looked(ctx, a, o, content)
}

// maxDocument is up to which length an answer may be a document of another kind
// whatever it begins with. What does not begin as one is a layer beyond that.
const maxDocument = 64 << 10

// looked is content, of which nothing but its bytes says that it is o, after a look at
// them. A small one that has not the digest is a document of another kind, which
// neither grants nor denies.
func (s *source) looked(ctx context.Context, a *answer, o oci.Object, content *oci.Content) (*oci.Content, error) {
	begin, err := io.ReadAll(io.LimitReader(a.Body, maxDocument+1))
	if err == nil && len(begin) > maxDocument && isDocument(begin) {
		var more []byte
		more, err = io.ReadAll(io.LimitReader(a.Body, maxSmall-maxDocument))
		begin = append(begin, more...)
	}
	rest := io.Reader(a.Body)
	switch {
	case err != nil: // it was cut off: whoever asks for the rest learns what it is
		content.Asked, rest = time.Time{}, cutOff{err}
	case len(begin) <= maxDocument, isDocument(begin) && len(begin) <= maxSmall:
		_ = a.Body.Close()
		return s.small(ctx, a, o, begin)
	}
	content.Body = prefixed{io.MultiReader(bytes.NewReader(begin), rest), a.Body}
	return content, nil
}

// isDocument says whether data begins as HTML, XML or JSON does.
func isDocument(data []byte) bool {
	data = bytes.TrimLeft(data, " \t\r\n\ufeff")
	return len(data) == 0 || strings.IndexByte("<{[", data[0]) >= 0
}

// cutOff is what is left of a body that ended with err.
type cutOff struct{ err error }

func (c cutOff) Read([]byte) (int, error) { return 0, c.err }

// prefixed is a body of which something was read ahead.
type prefixed struct {
	io.Reader
	io.Closer
}

// content makes Content of an answer to a GET of a blob.
func (s *source) content(ctx context.Context, a *answer, c *call, o oci.Object, r oci.Range) (*oci.Content, error) {
	p, err := s.measure(ctx, a, c, r)
	if err != nil {
		return nil, err
	}
	a.body.promise(p.length)
	content := &oci.Content{
		Descriptor: oci.Descriptor{Digest: o.Digest, Size: p.size, MediaType: oci.MediaTypeBlob},
		Outcome:    outcome(a),
		Offset:     p.offset, Length: p.length,
		Body: a.Body,
	}
	if a.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		_ = a.Body.Close() // the text of an error
		content.Body = http.NoBody
		content.Asked = time.Time{} // RFC 9110, 15.5.17: the size, but no 2xx, and so no proof
	}
	if a.target != nil && !token.SameOrigin(a.target, s.url) {
		content.Again = s.again(a.target, a.body.who, o)
	}
	return content, nil
}

// outcome dates the proof. What came from a redirect target without asking the
// registry is none.
func outcome(a *answer) oci.Outcome { return oci.Outcome{Result: oci.Pass, Asked: a.asked} }

// measure finds out which piece an answer to r is. It closes the answer where
// it is an error.
func (s *source) measure(ctx context.Context, a *answer, c *call, r oci.Range) (piece, error) {
	if c.rng == "" {
		r = oci.Range{}
	}
	switch {
	case a.StatusCode == http.StatusPartialContent:
		p, err := partial(a.Response, r)
		if err == nil && c.rng == "" && p.length != p.size {
			err = errors.New("a piece of what was asked for whole") // RFC 9110, 15.3.7: only a Range may get one
		}
		if err != nil {
			_ = a.Body.Close()
			return piece{}, a.body.who.notUnderstood("sent %s; try again", err)
		}
		return p, nil
	case a.StatusCode == http.StatusOK:
		return piece{0, a.ContentLength, a.ContentLength}, nil
	case a.StatusCode == http.StatusRequestedRangeNotSatisfiable && c.rng != "":
		if p, ok := beyond(a.Header, r); ok {
			return p, nil
		}
	}
	return piece{}, s.refused(ctx, a, c)
}

// beyond reads a 416: the range begins behind the end. One that does not is refused for
// another reason.
func beyond(h http.Header, r oci.Range) (piece, bool) {
	size, ok := unsatisfied(h.Get("Content-Range"))
	return piece{offset: size, length: 0, size: size}, ok && size > 0 && r.Start >= size
}

// isEmpty says whether o is the blob without a byte.
func isEmpty(o oci.Object) bool { return o.Digest == o.Digest.Algorithm().FromBytes(nil) }

// again opens other pieces where the registry sent us last time. There the URL
// itself is the right, so no credential goes along, and the registry is not
// asked: the answer proves nothing.
func (s *source) again(target *url.URL, who asker, o oci.Object) func(context.Context, oci.Range) (*oci.Content, error) {
	ask := func(ctx context.Context, c *call) (*answer, error) {
		return s.within(ctx, &call{op: opBlob}, openLimit, who, func(ctx context.Context) (*answer, error) {
			req := s.newRequest(http.MethodGet, target)
			req.Header.Set("Accept", c.accept)
			if c.rng != "" {
				req.Header.Set("Range", c.rng)
			}
			got, err := s.send(ctx, s.blob, req, opRedirect, targetRetries)
			if err != nil {
				return nil, fmt.Errorf("asking a redirect target again: %w", err)
			}
			return s.walk(ctx, s.blob, &answer{Response: got.Response, target: target}, req, who)
		})
	}
	return func(ctx context.Context, r oci.Range) (*oci.Content, error) { return s.blobBy(s.paid(ctx), o, r, ask) }
}
