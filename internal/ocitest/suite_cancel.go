package ocitest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"berth/oci"
)

// cancelCases: who stops waiting is let go at once.
func cancelCases() []suiteCase {
	return []suiteCase{
		{"cancel a call", testCancelCall},
		{"a deadline", testDeadline},
		{"a context that is over", testCancelled},
		{"cancel a body", testCancelBody},
		{"close a held body", testCloseHeld},
	}
}

func testCancelCall(t *testing.T, s Suite) {
	r, _ := s.open(t, Options{}, nobody())
	d, _ := addManifest(r, "v1")
	b := r.AddNoise("acme/app", 1, 10_000)
	for name, call := range anyCall("v1", d, b) {
		t.Run(name, func(t *testing.T) {
			src := s.New(t, r, nobody())
			gate := NewGate()
			held := r.Inject(Match{}, 0, Fault{Hold: gate})
			defer held.Remove()
			defer gate.Open()
			ctx, cancel := context.WithCancel(within(t))
			ended := make(chan error, 1)
			go func() { ended <- call(ctx, src) }()
			if err := gate.Wait(within(t), 1); err != nil {
				t.Fatal("the registry was not asked")
			}
			cancel()
			letGo(t, ended, oci.ClientGone)
		})
	}
}

// letGo wants the end of a call that nobody waits for any more.
func letGo(t *testing.T, ended <-chan error, class oci.Class) {
	t.Helper()
	select {
	case err := <-ended:
		if err == nil || oci.ClassOf(err) != class {
			t.Errorf("it ended with %v, want class %s", err, class)
		}
	case <-time.After(10 * time.Second):
		t.Error("it did not end")
	}
}

func testDeadline(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d, _ := addManifest(r, "v1")
	r.Inject(Match{}, 0, Silence())
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- drain(ctx, src, manifestOf(d)) }()
	letGo(t, ended, oci.Timeout)
}

func testCancelled(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d, _ := addManifest(r, "v1")
	b := r.AddNoise("acme/app", 1, 10_000)
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	for name, call := range anyCall("v1", d, b) {
		if err := call(ctx, src); oci.ClassOf(err) != oci.ClientGone {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// holdBody opens a blob whose bytes stop coming, and reads those that came.
func holdBody(ctx context.Context, t *testing.T, s Suite) *oci.Content {
	t.Helper()
	r, src := s.open(t, Options{}, nobody())
	d := r.AddNoise("acme/app", 1, 8<<20)
	gate := NewGate()
	t.Cleanup(gate.Open)
	r.Inject(Match{Kind: Blob}, 0, Fault{HoldBody: gate, HoldAt: 3 << 20})
	c, err := src.Open(ctx, blobOf(d), oci.Range{})
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	if _, err := io.CopyN(io.Discard, c.Body, 1<<20); err != nil {
		t.Fatalf("reading what came: %v", err)
	}
	if err := gate.Wait(within(t), 1); err != nil {
		t.Fatal("the blob was not asked for")
	}
	return c
}

func testCancelBody(t *testing.T, s Suite) {
	ctx, cancel := context.WithCancel(within(t))
	c := holdBody(ctx, t, s)
	defer closeBody(t, c)
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c.Body)
		ended <- err
	}()
	cancel()
	letGo(t, ended, oci.ClientGone)
	if _, err := c.Body.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a body that was given up ends with %v", err)
	}
}

func testCloseHeld(t *testing.T, s Suite) {
	c := holdBody(within(t), t, s)
	closed := make(chan error, 1)
	go func() { closed <- c.Body.Close() }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("Close waits for a registry that says nothing")
	}
}
