package ocitest

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
)

// Fault is what goes wrong with one answer. Its fields can be combined; the
// zero Fault is none. The functions below make the usual ones.
type Fault struct {
	// Hold keeps the request before anything is answered until it is released.
	Hold *Gate
	// Drop closes the connection without any answer, by reset.
	Drop bool
	// Status answers this instead of what was asked for, with Body. If Body is
	// nil, it is an error document of the specification.
	Status int
	Body   []byte
	// Header replaces headers of the answer; one without values removes it.
	Header http.Header

	// IgnoreRange answers as if no Range had been asked for.
	IgnoreRange bool
	// ShiftRange moves the start of the range that is answered, and says so in
	// Content-Range: as registries do that round ranges.
	ShiftRange int64
	// Length is a false Content-Length. Less than there is: the body ends there,
	// cleanly. More: the connection is closed early.
	Length int64
	// Chunked leaves out Content-Length.
	Chunked bool
	// Gzip compresses the body, with Content-Encoding, whatever was accepted.
	Gzip bool
	// Endless goes on with zeros after the body, without a Content-Length.
	Endless bool
	// Flip turns one bit of the body's byte FlipAt.
	Flip   bool
	FlipAt int64

	// HoldBody keeps the body after HoldAt bytes until it is released.
	HoldBody *Gate
	HoldAt   int64
	// Rate is how many body bytes leave in a second. Zero: as they come.
	Rate int64
	// Cut ends the body after CutAt bytes.
	Cut   Cut
	CutAt int64
}

// Cut is how a body ends too early.
type Cut uint8

// The ways.
const (
	NoCut Cut = iota
	// CutReset resets the connection (or the HTTP/2 stream). Bytes that were
	// under way may be lost.
	CutReset
	// CutClose closes the connection: exactly CutAt bytes arrive, and the
	// client can tell that some are missing.
	CutClose
	// CutEnd ends a body without Content-Length: the client cannot tell.
	CutEnd
)

// Status answers a status, with pairs of header names and values.
func Status(code int, header ...string) Fault { return Fault{Status: code, Header: headers(header)} }

// Header replaces headers of the answer, given as pairs.
func Header(header ...string) Fault { return Fault{Header: headers(header)} }

// NoHeader removes headers of the answer.
func NoHeader(names ...string) Fault {
	h := http.Header{}
	for _, n := range names {
		h[http.CanonicalHeaderKey(n)] = nil
	}
	return Fault{Header: h}
}

// Denied answers 403 DENIED.
func Denied() Fault { return Problem(http.StatusForbidden, "DENIED", "denied: denied") }

// Problem answers an error document of the specification.
func Problem(status int, code, message string, header ...string) Fault {
	f := Status(status, header...)
	f.Body = problem(code, message)
	return f
}

// CutAfter ends the body after n bytes.
func CutAfter(n int64, how Cut) Fault { return Fault{Cut: how, CutAt: n} }

// FlipBit turns a bit of byte n of the body.
func FlipBit(n int64) Fault { return Fault{Flip: true, FlipAt: n} }

// Slow sends n body bytes in a second.
func Slow(n int64) Fault { return Fault{Rate: n} }

// Stall stops the body after n bytes until the client leaves or the registry
// is closed.
func Stall(n int64) Fault { return Fault{HoldBody: NewGate(), HoldAt: n} }

// Silence never answers until the client leaves or the registry is closed.
func Silence() Fault { return Fault{Hold: NewGate()} }

// Drop closes the connection without any answer.
func Drop() Fault { return Fault{Drop: true} }

func headers(pairs []string) http.Header {
	h := http.Header{}
	for pair := range slices.Chunk(pairs, 2) {
		h.Add(pair[0], pair[1])
	}
	return h
}

// Injection is a fault that waits for its requests.
type Injection struct {
	reg   *Registry
	match Match
	times int
	fault Fault
	hits  int
	gone  bool
}

// Inject makes a fault happen to the first matching requests; times 0: to all.
// Where several fit a request, the oldest that has times left is taken, before
// Options.Fault is asked.
func (r *Registry) Inject(m Match, times int, f Fault) *Injection {
	in := &Injection{reg: r, match: m, times: times, fault: f}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append(r.rules, in)
	return in
}

// Hold keeps matching requests before they are answered, until the gate is
// opened.
func (r *Registry) Hold(m Match) *Gate {
	g := NewGate()
	r.Inject(m, 0, Fault{Hold: g})
	return g
}

// Hits is how often the fault has happened.
func (in *Injection) Hits() int {
	in.reg.mu.Lock()
	defer in.reg.mu.Unlock()
	return in.hits
}

// Remove ends the injection.
func (in *Injection) Remove() {
	in.reg.mu.Lock()
	defer in.reg.mu.Unlock()
	in.gone = true
}

// faultFor decides what goes wrong with a request.
func (r *Registry) faultFor(req Request) Fault {
	if f, ok := r.injected(req); ok {
		return f
	}
	if r.opts.Fault != nil {
		return r.opts.Fault(req)
	}
	return Fault{}
}

func (r *Registry) injected(req Request) (Fault, bool) {
	r.mu.Lock()
	rules := slices.Clone(r.rules)
	r.mu.Unlock()
	for _, in := range rules {
		if !in.match.matches(req) { // with mu free: Where is the test's own code
			continue
		}
		r.mu.Lock()
		ok := !in.gone && (in.times == 0 || in.hits < in.times)
		if ok {
			in.hits++
		}
		r.mu.Unlock()
		if ok {
			return in.fault, true
		}
	}
	return Fault{}, false
}

// edit changes the headers of an answer before they leave.
func (f *Fault) edit(h http.Header, status int) {
	if f.Gzip && status < 300 {
		h.Set("Content-Encoding", "gzip")
	}
	if f.Chunked || f.Endless || f.Cut == CutEnd || f.Gzip {
		h.Del("Content-Length")
	}
	if f.Length != 0 {
		h.Set("Content-Length", strconv.FormatInt(f.Length, 10))
	}
	maps.Copy(h, f.Header)
}
