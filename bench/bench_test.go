package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRegistry: what the registry serves is what its digests name, in pieces too;
// its troubles come as often as they were ordered; and it counts.
func TestRegistry(t *testing.T) {
	t.Parallel()
	r := newRegistry(4 << 20)
	s := httptest.NewServer(r)
	defer s.Close()
	const size = 3 << 20
	digest := r.addBlob(size)
	get := func() (string, error) {
		into := sha256.New()
		_, err := fetch(t.Context(), target{address: s.Listener.Addr().String(), path: "/v2/team/app/blobs/" + digest, into: into})
		return fmt.Sprintf("sha256:%x", into.Sum(nil)), err
	}
	if got, err := get(); err != nil || got != digest {
		t.Fatalf("got %s, %v instead of %s", got, err, digest)
	}
	if c := r.take(); c != (counts{Requests: 1, Bytes: size}) {
		t.Errorf("it counted %+v", c)
	}
	r.set(conditions{Cut: 1, Busy: 1, Limited: 1})
	for _, want := range []string{"503", "429", "unexpected EOF"} {
		if _, err := get(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v instead of %s", err, want)
		}
	}
	if got, err := get(); err != nil || got != digest {
		t.Errorf("after all trouble: %s, %v", got, err)
	}
}

// TestBlobReader reads across the end of the head, from anywhere.
func TestBlobReader(t *testing.T) {
	t.Parallel()
	b := blob{head: []byte("abcd"), size: 8}
	noise := []byte("01234567")
	for from := range 9 {
		r := b.reader(noise)
		if _, err := r.Seek(int64(from), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var sent strings.Builder
		if _, err := r.send(&sent, int64(8-from)); err != nil {
			t.Fatal(err)
		}
		_, _ = r.Seek(int64(from), io.SeekStart) // as before
		read, err := io.ReadAll(r)
		if want := "abcd4567"[from:]; err != nil || string(read) != want || sent.String() != want {
			t.Errorf("from %d: read %q, %v, sent %q, instead of %q", from, read, err, sent.String(), want)
		}
	}
}

// TestPound counts what a server answered, and refuses what is no 200.
func TestPound(t *testing.T) {
	t.Parallel()
	r := newRegistry(4 << 20)
	s := httptest.NewServer(r)
	defer s.Close()
	address := s.Listener.Addr().String()
	if _, err := pound(t.Context(), address, [][]byte{request(address, "/v2/")}, 1, time.Millisecond); err == nil {
		t.Error("a 401 counted")
	}
	// The ping has no body, but a length.
	ping := fmt.Appendf(nil, "GET /v2/ HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic YmVuY2g6bm90LWEtc2VjcmV0\r\n\r\n", address)
	r.take()
	p, err := pound(t.Context(), address, [][]byte{ping}, 3, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	// Each connection has one on the way at the end.
	if n := int(r.take().Requests); p.requests == 0 || n < p.requests || n > p.requests+3 {
		t.Errorf("it counted %d of %d", p.requests, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pound(ctx, address, [][]byte{ping}, 1, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("it went on: %v", err)
	}
}

// TestReport: medians and spreads come out, and what failed is said.
func TestReport(t *testing.T) {
	t.Parallel()
	rows := table()
	one := &rowResult{Title: "a row", row: &rows[0]}
	for _, v := range []float64{30, 10, 20} {
		one.put("berth", figures{"MB/s": v, "CPU s/GB": v / 100})
	}
	one.failed("nginx", errors.New("it fell over"))
	r := result{Runs: 3, Rows: []*rowResult{one}, Missing: []string{"zot: cannot be had"}}
	text := r.markdown()
	for _, want := range []string{"| berth | 20 (10-30) | 0.200 |", "| nginx | - | - |", "nginx failed: it fell over", "- zot: cannot be had"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if plot := r.plot(); !strings.Contains(plot, "20") || !strings.HasPrefix(plot, "<svg") {
		t.Errorf("a plot without the figure: %s", plot)
	}
}

// TestChoose finds rows by name, and says what there is.
func TestChoose(t *testing.T) {
	t.Parallel()
	p, err := parse([]string{"--only", "faults,process", "--peers", "berth, bare", "--runs", "2"})
	if err != nil || len(p.rows) != 2 || p.rows[1].name != "process" || len(p.peers) != 2 || p.runs != 2 {
		t.Errorf("parsed %+v, %v", p, err)
	}
	if p, err = parse([]string{"--only", "pull", "--rounds", "2"}); err != nil || p.runs != 2 || len(p.rows) != 11 || !strings.HasPrefix(p.rows[0].name, "pull-") {
		t.Errorf("parsed %+v, %v", p, err)
	}
	if _, err := parse([]string{"--only", "nothing"}); err == nil || !strings.Contains(err.Error(), "cold-fast") {
		t.Errorf("an unknown row gave %v", err)
	}
}

// TestGrowth_IsMeasuredInPieces: what a later run measures is added to what the folder
// has, and replaces only its own.
func TestGrowth_IsMeasuredInPieces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, run := range []growths{
		{"clients": {{N: 16, CPU: 1, MiB: 2, Starts: 3}}, "objects": {{N: 1, CPU: 44, MiB: 5, Starts: 6}}},
		{"objects": {{N: 1, CPU: 7, MiB: 8, Starts: 9}, {N: 1000, CPU: 10, MiB: 11, Starts: 12}}},
	} {
		found, err := loadGrowth(dir)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(found, run)
		if err := found.save(dir); err != nil {
			t.Fatal(err)
		}
	}
	table, err := os.ReadFile(filepath.Join(dir, "growth.md"))
	if err != nil {
		t.Fatal(err)
	}
	for row, want := range map[string]bool{"| 16 | 1.0 | 2 | 3 |": true, "| 1 | 7.0 | 8 | 9 |": true, "| 1000 | 10.0 | 11 | 12 |": true, "| 1 | 44.0 |": false} {
		if strings.Contains(string(table), row) != want {
			t.Errorf("row %q is there: %t\n%s", row, !want, table)
		}
	}
	plot, err := os.ReadFile(filepath.Join(dir, "growth.svg"))
	if err != nil || strings.Count(string(plot), "<polyline") != 4 {
		t.Errorf("%v; the plot is %s", err, plot)
	}
}
