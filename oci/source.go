package oci

import (
	"context"
	"io"
	"net/url"
	"time"
)

// Source is one registry as one organisation may see it. The cache and the
// network both are Sources, and the cache wraps the network.
//
// Every method may return an *Error; a caller that gets another error treats
// it as AsError does. ctx bounds the call, and for Open also the reading of
// the Content.
type Source interface {
	// Principal is as whom repo is asked here. The credential may depend on the
	// repository.
	Principal(repo string) Principal

	// Resolve asks what tag means now. The answer is a hint that ages.
	// Errors: those of the table in doc/design.md; NotFound for an unknown tag.
	Resolve(ctx context.Context, repo, tag string) (Resolution, error)

	// Stat is Open without the bytes: the Content's Body is nil. Upstream it is
	// what proves access and membership: HEAD for a manifest, a one-byte range
	// for a blob.
	Stat(ctx context.Context, o Object) (*Content, error)

	// Open returns an object, or at least the part of it that r names. The caller
	// closes the Content. A manifest comes whole and verified, as its Data.
	Open(ctx context.Context, o Object, r Range) (*Content, error)

	// List asks for tags or referrers. Lists are not content-addressed: they
	// are asked as this principal each time, or kept briefly for it alone.
	List(ctx context.Context, req ListRequest) (*Page, error)
}

// Kind says under which endpoint an object lives.
type Kind uint8

// The kinds of object.
const (
	Manifest Kind = iota + 1
	Blob
)

func (k Kind) String() string {
	switch k {
	case Manifest:
		return "manifest"
	case Blob:
		return "blob"
	}
	return "none"
}

// Object is one immutable thing in one repository.
type Object struct {
	Repo   string
	Kind   Kind
	Digest Digest
}

// Range is the part of an object that a caller is going to read. The zero
// Range is all of it.
type Range struct {
	// Start is the first byte; negative: the last -Start bytes of the object.
	Start int64
	// Length is how many bytes, 0: to the end.
	Length int64
	// Sparse says that only pieces of the range will be read (a multipart
	// range), so that nothing between them should be fetched ahead.
	Sparse bool
}

// Bounded says whether less than "everything from Start on" is wanted. An
// open-ended range is not bounded: who sends it (containerd, a resumed docker
// pull) wants the whole object.
func (r Range) Bounded() bool { return r.Length > 0 || r.Start < 0 || r.Sparse }

// MaxManifest is what the distribution specification asks registries to take at least,
// and more than any client takes.
const MaxManifest = 4 << 20

// Descriptor describes content.
type Descriptor struct {
	MediaType string
	Digest    Digest
	// Size in bytes; -1 when the registry did not say.
	Size int64
	// Data is the content itself where it came along for free, else nil. It
	// was checked against Digest.
	Data []byte
}

// Result says how an answer came about, for metrics and the log.
type Result string

// The results, as they appear in berth_requests_total.
const (
	Hit         Result = "hit"         // from the cache, nothing asked
	Fill        Result = "fill"        // fetched now, and kept
	Join        Result = "join"        // from a fetch that was under way
	Revalidated Result = "revalidated" // from the cache after upstream agreed
	Stale       Result = "stale"       // from the cache since upstream was in trouble
	Pass        Result = "pass"        // fetched now, not kept
	Failed      Result = "failed"
	Gone        Result = "client_gone"
)

// Outcome says how an answer came about.
type Outcome struct {
	Result Result
	// Warning is text for a "Warning: 299" header, or empty.
	Warning string
	// Asked is when the registry request that this answer proves something by
	// was sent; zero when no registry was asked. A denial that came later than
	// Asked wins over the proof.
	Asked time.Time
}

// Warn adds text to the warning.
func (o *Outcome) Warn(text string) {
	if o.Warning != "" {
		text = o.Warning + "; " + text
	}
	o.Warning = text
}

// Resolution is what a tag means.
type Resolution struct {
	Descriptor
	Outcome
}

// Content is one immutable object or a piece of it.
type Content struct {
	Descriptor
	Outcome
	// Offset is where in the object Body begins, and Length how many bytes it
	// has from there; -1 when the registry did not say.
	Offset, Length int64
	// Body gives the bytes. A Body that is also an io.Seeker reaches the whole
	// object, whatever range was asked for, and starts at 0. An error other than
	// io.EOF means that what was read may be wrong: the answer must be aborted,
	// never ended cleanly. Nil after Stat, and where all of it is in Data.
	Body io.ReadCloser
	// Again opens another piece of the object the way this one came, without
	// asking the registry (a redirect target is used again). So it proves
	// nothing, and a refusal by it denies nothing. Nil: there is no such way.
	Again func(ctx context.Context, r Range) (*Content, error)
}

// Close closes the Body, if there is one. What was read from it has been checked, or is
// dropped.
func (c *Content) Close() {
	if c.Body != nil {
		_ = c.Body.Close()
	}
}

// End is where in the object Body ends, -1 when the registry did not say.
func (c *Content) End() int64 {
	if c.Length < 0 {
		return -1
	}
	return c.Offset + c.Length
}

// Piecer is implemented by bodies whose bytes lie in a file, so that they can
// be sent without copying.
type Piecer interface {
	// Piece waits until bytes at the current position are there and returns a
	// reader of at most limit of them that the kernel can send (an
	// *io.LimitedReader over an *os.File that stands at the position). Moved
	// must be called with the number that was read from it.
	Piece(limit int64) (io.Reader, error)
	Moved(n int64)
}

// ListKind says which list.
type ListKind uint8

// The lists.
const (
	Tags ListKind = iota + 1
	Referrers
)

// ListRequest asks for a page of tags or referrers.
type ListRequest struct {
	Kind ListKind
	Repo string
	// Digest is whose referrers; empty for tags.
	Digest Digest
	// Query goes upstream as it is: n, last, artifactType, and whatever a
	// registry put into its own next link.
	Query url.Values
}

// Page is one page of a list.
type Page struct {
	MediaType string
	Body      []byte
	// Next is the query of the next page's link; empty at the end.
	Next string
	// FiltersApplied is the registry's OCI-Filters-Applied.
	FiltersApplied string
	Outcome
}
