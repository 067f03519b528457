package proxy

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"berth/oci"
)

// maxRanges bounds one header. containers/storage asks for up to 1024 pieces of
// a zstd:chunked layer at once.
const maxRanges = 2048

// span is one range as a client writes it (RFC 9110, section 14.1.2): from
// first to last, where last -1 is the end; first -1 means the last `last` bytes.
type span struct{ first, last int64 }

// backwards says that s ends before it begins. Nothing is in it, and 416 is what the
// conformance tests of the distribution specification want then.
func (s span) backwards() bool { return s.last >= 0 && s.last < s.first }

// parseRange reads a Range header. Nil: there is none, or it is malformed or in
// another unit, which the RFC lets a server ignore; clients take the 200.
func parseRange(header string) []span {
	list, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return nil
	}
	spans := make([]span, 0, 1)
	for part := range strings.SplitSeq(list, ",") {
		part = strings.Trim(part, " \t")
		if part == "" {
			continue // the RFC wants empty list elements accepted
		}
		s, ok := parseSpan(part)
		if !ok || len(spans) == maxRanges {
			return nil
		}
		spans = append(spans, s)
	}
	if len(spans) == 0 {
		return nil
	}
	return spans
}

func parseSpan(s string) (span, bool) {
	from, to, ok := strings.Cut(s, "-")
	if !ok {
		return span{}, false
	}
	if from == "" {
		n, ok := parsePosition(to)
		return span{first: -1, last: n}, ok
	}
	first, ok := parsePosition(from)
	if !ok || to == "" {
		return span{first: first, last: -1}, ok
	}
	last, ok := parsePosition(to)
	return span{first: first, last: last}, ok
}

// parsePosition takes digits only: ParseInt would take a sign too.
func parsePosition(s string) (int64, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < math.MaxInt64
}

// hint is the part of the object that spans need, for who has to fetch it.
func hint(spans []span) oci.Range {
	switch len(spans) {
	case 0:
		return oci.Range{}
	case 1:
		return spans[0].hint()
	}
	return hull(spans)
}

func (s span) hint() oci.Range {
	switch {
	case s.first < 0:
		return oci.Range{Start: -s.last} // of 0 bytes: everything, which then is not sent
	case s.last < 0:
		return oci.Range{Start: s.first}
	case s.backwards():
		return oci.Range{Length: 1} // for the size alone
	}
	return oci.Range{Start: s.first, Length: s.last - s.first + 1}
}

// hull reaches from the first byte of all spans to the last. The size is not
// known yet, so a suffix among others may begin anywhere.
func hull(spans []span) oci.Range {
	first, last, suffix := int64(math.MaxInt64), int64(0), int64(0)
	for _, s := range spans {
		switch {
		case s.first < 0:
			suffix = max(suffix, s.last)
			continue
		case s.backwards():
			continue
		case s.last < 0 || last < 0:
			last = -1
		default:
			last = max(last, s.last)
		}
		first = min(first, s.first)
	}
	switch {
	case first == math.MaxInt64:
		return oci.Range{Start: -suffix, Sparse: true}
	case suffix > 0:
		return oci.Range{Sparse: true}
	case last < 0:
		return oci.Range{Start: first, Sparse: true}
	}
	return oci.Range{Start: first, Length: last - first + 1, Sparse: true}
}

// window is a piece of an object whose size is known.
type window struct{ start, length int64 }

// contentRange is how RFC 9110, section 14.4, names it.
func (w window) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", w.start, w.start+w.length-1, size)
}

// windows are the spans that lie in an object of size bytes, at least in part.
func windows(spans []span, size int64) []window {
	var all []window
	for _, s := range spans {
		if w, ok := s.within(size); ok {
			all = append(all, w)
		}
	}
	return all
}

func (s span) within(size int64) (window, bool) {
	switch {
	case s.first < 0:
		length := min(s.last, size)
		return window{size - length, length}, length > 0
	case s.first >= size, s.backwards():
		return window{}, false
	case s.last < 0:
		return window{s.first, size - s.first}, true
	}
	return window{s.first, min(s.last, size-1) - s.first + 1}, true
}
