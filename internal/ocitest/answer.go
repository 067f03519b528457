package ocitest

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answer is the ResponseWriter of one request: it counts what leaves, and
// makes the fault happen.
type answer struct {
	http.ResponseWriter
	reg   *Registry
	hr    *http.Request
	rec   *Request
	fault Fault

	status int
	sent   int64
	begun  time.Time
	held   bool
	gz     *gzip.Writer
}

var errCut = errors.New("the body was cut by a fault")

// before makes happen what comes before any answer.
func (a *answer) before() {
	if g := a.fault.Hold; g != nil {
		a.wait(g)
	}
	if a.fault.Drop {
		a.reset()
	}
	if a.fault.IgnoreRange {
		a.hr.Header.Del("Range")
	}
	if by := a.fault.ShiftRange; by != 0 {
		a.shiftRange(by)
	}
}

// instead answers the fault's status.
func (a *answer) instead() {
	body := a.fault.Body
	if body == nil && a.fault.Status >= 400 {
		body = problem("UNKNOWN", "an injected fault")
	}
	if a.Header().Get("Content-Type") == "" {
		a.Header().Set("Content-Type", "application/json")
	}
	a.WriteHeader(a.fault.Status)
	if a.hr.Method != http.MethodHead {
		_, _ = a.Write(body) // a fault of the body is meant to fail
	}
	a.after()
}

// after makes happen what comes after the body.
func (a *answer) after() {
	if a.gz != nil {
		_ = a.gz.Close()
	}
	zeros := make([]byte, 32<<10)
	for a.fault.Endless && a.status < 300 && a.hr.Method != http.MethodHead {
		if _, err := a.Write(zeros); err != nil {
			return
		}
	}
}

// WriteHeader sends the headers as the fault wants them.
func (a *answer) WriteHeader(status int) {
	if a.status != 0 {
		return
	}
	a.status = status
	a.fault.edit(a.Header(), status)
	a.reg.update(a.rec, func(q *Request) { q.Status = status })
	a.ResponseWriter.WriteHeader(status)
	if a.fault.Chunked || a.fault.Endless || a.fault.Cut == CutEnd {
		a.flush() // else net/http would count a short body itself
	}
	a.begun = time.Now()
	if a.fault.Gzip && status < 300 {
		a.gz = gzip.NewWriter(writerFunc(a.send))
	}
}

// Write sends a part of the body.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.gz != nil {
		return a.gz.Write(p)
	}
	return a.send(p)
}

func (a *answer) send(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		if err := a.event(); err != nil {
			return total, err
		}
		n := a.room(len(p))
		if n == 0 {
			return total, errCut
		}
		n, err := a.raw(p[:n])
		total += n
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

// room is how many bytes can be sent until something happens.
func (a *answer) room(want int) int {
	n := int64(want)
	f := &a.fault
	if f.HoldBody != nil && !a.held {
		n = min(n, f.HoldAt-a.sent)
	}
	if f.Cut != NoCut {
		n = min(n, f.CutAt-a.sent)
	}
	if f.Length > 0 {
		n = min(n, f.Length-a.sent)
	}
	if f.Rate > 0 {
		n = min(n, max(1, f.Rate/50))
	}
	return int(max(n, 0))
}

// event makes happen what is due at this byte.
func (a *answer) event() error {
	f := &a.fault
	if f.HoldBody != nil && !a.held && a.sent >= f.HoldAt {
		a.held = true
		a.flush()
		a.wait(f.HoldBody)
	}
	if f.Cut != NoCut && a.sent >= f.CutAt {
		a.cut()
		return errCut
	}
	if f.Rate > 0 {
		return a.pace()
	}
	return nil
}

func (a *answer) raw(p []byte) (int, error) {
	f := &a.fault
	if i := f.FlipAt - a.sent; f.Flip && i >= 0 && i < int64(len(p)) {
		p = append([]byte(nil), p...)
		p[i] ^= 0x10
	}
	// Counted first, so that whoever has the bytes finds them in the record.
	a.count(int64(len(p)))
	n, err := a.ResponseWriter.Write(p)
	if n < len(p) {
		a.count(int64(n - len(p)))
	}
	if f.Rate > 0 {
		a.flush()
	}
	return n, err
}

// count records n more bytes. With the last one that was announced the request
// counts as over: the client may send its next one before the handler returns.
func (a *answer) count(n int64) {
	a.sent += n
	length, err := strconv.ParseInt(a.Header().Get("Content-Length"), 10, 64)
	a.reg.update(a.rec, func(q *Request) {
		q.Sent += n
		if err == nil && a.sent >= length && q.endID == 0 {
			q.endID = a.reg.tick()
		}
	})
}

// pace waits until the bytes so far fit the rate.
func (a *answer) pace() error {
	due := a.begun.Add(time.Duration(float64(a.sent) / float64(a.fault.Rate) * float64(time.Second)))
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-a.hr.Context().Done():
		return context.Cause(a.hr.Context())
	case <-a.reg.closing:
		return errClosed
	}
}

// wait blocks at a gate. Whoever waits in vain is cut off.
func (a *answer) wait(g *Gate) {
	ctx, cancel := context.WithCancelCause(a.hr.Context())
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	a.reg.handlers.Go(func() {
		select {
		case <-a.reg.closing:
			cancel(errClosed)
		case <-done:
		}
	})
	if err := g.enter(ctx); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func (a *answer) cut() {
	switch a.fault.Cut {
	case CutReset:
		a.reset()
	case CutClose:
		a.flush()
		panic(http.ErrAbortHandler)
	}
}

// reset ends the connection without a goodbye.
func (a *answer) reset() {
	if a.hr.ProtoMajor > 1 {
		panic(http.ErrAbortHandler) // RST_STREAM
	}
	a.flushIfBegun()
	c, _, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	raw := c
	if t, ok := c.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // close by RST
	}
	_ = raw.Close()
	panic(http.ErrAbortHandler)
}

func (a *answer) flushIfBegun() {
	if a.status != 0 {
		a.flush()
	}
}

func (a *answer) flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

func (a *answer) shiftRange(by int64) {
	spec, ok := strings.CutPrefix(a.hr.Header.Get("Range"), "bytes=")
	if !ok {
		return
	}
	var start int64
	if _, err := fmt.Sscanf(spec, "%d-", &start); err != nil || start < 0 {
		return
	}
	_, end, _ := strings.Cut(spec, "-")
	a.hr.Header.Set("Range", fmt.Sprintf("bytes=%d-%s", max(0, start+by), end))
}

func problem(code, message string) []byte {
	return mustJSON(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
