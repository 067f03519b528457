package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Health is what Check found.
type Health struct {
	// Ahead is by how much this node's clock is ahead of the bucket's, to a second.
	Ahead time.Duration
	// Lists says that the bucket can be listed, which a node has no need for.
	Lists bool
}

// Check writes a small object, reads it again, and tries what a node needs no right to.
// It asks whatever a gate says.
func (b *Bucket) Check(ctx context.Context) (Health, error) {
	var h Health
	body := make([]byte, 32)
	_, _ = rand.Read(body) // never fails
	const key = probeKey + "/check"
	if err := b.put(ctx, key, body); err != nil {
		return h, fmt.Errorf("writing: %w", err)
	}
	resp, err := b.send(ctx, http.MethodGet, key, nil)
	if err != nil {
		return h, fmt.Errorf("reading: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return h, fmt.Errorf("reading what was just written: %w", answered(resp))
	}
	got, err := io.ReadAll(io.LimitReader(resp.Body, int64(len(body))+1))
	if err != nil {
		return h, fmt.Errorf("reading: %w", err)
	}
	if !bytes.Equal(got, body) {
		// Another node that checks at this moment has written in between, or the
		// service hands out old objects.
		return h, errors.New("reading what was just written gave something else: try again; if it stays so, this service is no S3 bucket that can be used")
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		h.Ahead = time.Since(at).Truncate(time.Second)
	}
	h.Lists, err = b.lists(ctx)
	return h, err
}

func (b *Bucket) lists(ctx context.Context) (bool, error) {
	resp, err := b.sendQuery(ctx, http.MethodGet, "", "list-type=2&max-keys=1", nil)
	if err != nil {
		return false, fmt.Errorf("listing: %w", err)
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK, nil
}
