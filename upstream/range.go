package upstream

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"berth/oci"
)

// rangeHeader is r as a Range header; empty for the whole object.
func rangeHeader(r oci.Range) string {
	switch {
	case r.Start < 0:
		return "bytes=" + strconv.FormatInt(r.Start, 10)
	case r.Length > 0 && r.Length-1 <= math.MaxInt64-r.Start:
		return fmt.Sprintf("bytes=%d-%d", r.Start, r.Start+r.Length-1)
	case r.Start > 0:
		return fmt.Sprintf("bytes=%d-", r.Start)
	}
	return ""
}

// piece is a part of an object: where it begins, its length, and the size of
// the whole; -1 where the registry did not say.
type piece struct{ offset, length, size int64 }

// contentRange reads a Content-Range of a 206: "bytes 0-99/1000", where the
// size may be "*". Only what RFC 9110, 14.4 calls valid is taken.
func contentRange(s string) (piece, bool) {
	rest, ok := cutUnit(s)
	if !ok {
		return piece{}, false
	}
	span, size, ok := strings.Cut(rest, "/")
	if !ok {
		return piece{}, false
	}
	first, last, ok := strings.Cut(span, "-")
	start, ok1 := number(first)
	end, ok2 := number(last)
	if !ok || !ok1 || !ok2 || end < start || end == math.MaxInt64 {
		return piece{}, false
	}
	p := piece{offset: start, length: end - start + 1, size: -1}
	if size == "*" {
		return p, true
	}
	p.size, ok = number(size)
	return p, ok && p.size > end
}

// unsatisfied reads the size in a Content-Range of a 416: "bytes */1000".
func unsatisfied(s string) (size int64, ok bool) {
	rest, ok := cutUnit(s)
	if !ok {
		return 0, false
	}
	text, ok := strings.CutPrefix(rest, "*/")
	if !ok {
		return 0, false
	}
	return number(text)
}

func cutUnit(s string) (rest string, ok bool) {
	unit, rest, ok := strings.Cut(strings.TrimSpace(s), " ")
	return strings.TrimSpace(rest), ok && strings.EqualFold(unit, "bytes")
}

// number is a run of digits as an int64.
func number(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// partial reads a 206 to r and says what is wrong with it. A registry may send
// less than was asked for, but not something else.
func partial(resp *http.Response, r oci.Range) (piece, error) {
	p, ok := contentRange(resp.Header.Get("Content-Range"))
	switch {
	case !ok:
		return piece{}, fmt.Errorf("a piece with an invalid Content-Range")
	case resp.ContentLength >= 0 && resp.ContentLength != p.length && encoding(resp.Header) == "":
		return piece{}, fmt.Errorf("a piece whose Content-Length and Content-Range differ")
	case r.Start >= 0 && p.offset != r.Start, r.Start >= 0 && r.Length > 0 && p.length > r.Length,
		r.Start < 0 && p.length > -r.Start, r.Start < 0 && p.size >= 0 && p.offset != max(0, p.size+r.Start):
		return piece{}, fmt.Errorf("another piece than was asked for")
	}
	return p, nil
}

// asking sends a call to the registry, or to where it sent us the last time.
type asking func(context.Context, *call) (*answer, error)

// whole is c without a Range.
func (c *call) whole() *call {
	w := *c
	w.rng = ""
	return &w
}

// asked asks for the piece r of a blob, and once more for the whole where the answer is
// about the Range: it is a hint, and there are registries, caches and object stores
// that fail for the sake of it although the blob is there. It changes c to what was
// answered.
func (s *source) asked(ctx context.Context, c *call, r oci.Range, ask asking) (*answer, error) {
	a, err := ask(ctx, c)
	switch {
	case c.rng == "", err != nil && (!s.brokeOff(err) || ctx.Err() != nil || !s.budgets.spend(ctx)):
		return a, err
	case err != nil:
		s.log.DebugContext(ctx, "a request with a Range broke off", "registry", s.name, "repo", c.repo)
		*c = *c.whole()
		return ask(ctx, c)
	case !s.mindsRange(ctx, a, r):
		return a, nil
	}
	discard(a.Response)
	s.log.DebugContext(ctx, "asking once more without a Range", "registry", s.name, "repo", c.repo, "status", a.StatusCode)
	*c = *c.whole()
	return ask(ctx, c)
}

// mindsRange says whether an answer to a request with a Range may be another one
// without it.
func (s *source) mindsRange(ctx context.Context, a *answer, r oci.Range) bool {
	switch a.StatusCode {
	case http.StatusPartialContent:
		_, err := partial(a.Response, r)
		return err != nil
	case http.StatusRequestedRangeNotSatisfiable:
		// Also where only the end of the piece lies beyond the end of the blob, or all
		// of it beyond that of an encoding which is shorter.
		_, beyond := beyond(a.Header, r)
		return !beyond || s.labels.encodes(s.hostOf(a))
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		// What stands before a registry may fail for a Range alone. It was asked more
		// than once, and may as well be down.
		_, trouble := s.origin.trouble()
		return !trouble && a.Header.Get("Retry-After") == "" && s.budgets.spend(ctx)
	case http.StatusUnauthorized, http.StatusForbidden:
		// A storage that does not know a Range which its URL was not signed for. The
		// registry itself means what it says, and asking a storage once more that is
		// asked past the registry does not make a URL valid again.
		return a.target != nil && !a.asked.IsZero()
	}
	return rangeStatus(a.StatusCode)
}

// rangeStatus says whether a status may be about a Range: a request that is not
// understood or not implemented, and not one that is refused, limited or too early.
func rangeStatus(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusConflict, http.StatusLengthRequired,
		http.StatusPreconditionFailed, http.StatusExpectationFailed, http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge,
		http.StatusInternalServerError, http.StatusNotImplemented:
		return true
	}
	return false
}
