package upstream

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// zeros are n of them, and the same compressed: a thousandth.
func zeros(t *testing.T, n int64) (oci.Digest, []byte) {
	t.Helper()
	var small bytes.Buffer
	z, digester := gzip.NewWriter(&small), oci.DigestOf(nil).Algorithm().Digester()
	block := make([]byte, 1<<20)
	for range n / int64(len(block)) {
		if _, err := io.MultiWriter(z, digester.Hash()).Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return digester.Digest(), small.Bytes()
}

// A few bytes that stand for far more are undone up to a bound, also where the digest
// would be right at the end.
func TestEncoding_SwellsUpToABound(t *testing.T) {
	digest, small := zeros(t, freePlain+freePlain/2)
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: digest}
	if encoded, err := which(t.Context(), "gzip", o, bytes.NewReader(small)); encoded || !errors.Is(err, errNeither) {
		t.Errorf("encoded %v, %v", encoded, err)
	}
	p, err := undo(t.Context(), "gzip", bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, p)
	if most := int64(freePlain + maxRatio*len(small) + 1<<20); !errors.Is(err, errSwells) || n > most {
		t.Errorf("%d bytes became %d, %v; at most %d may", len(small), n, err, most)
	}

	digest, small = zeros(t, 8<<20)
	o.Digest = digest
	if encoded, err := which(t.Context(), "gzip", o, bytes.NewReader(small)); !encoded || err != nil {
		t.Errorf("what is small: encoded %v, %v", encoded, err)
	}
}

// What is in memory is not undone any more when nobody waits for it.
func TestEncoding_EndsWithTheRequest(t *testing.T) {
	digest, small := zeros(t, 8<<20)
	up := ocitest.New(t, ocitest.Options{})
	up.AddRepo("acme/app")
	up.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Fault{Status: 200, Header: http.Header{"Content-Encoding": {"gzip"}}, Body: small})
	ctx, cancel := context.WithCancel(t.Context())
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: digest}
	c, err := over(t, up).As(Identity{}).Open(ctx, o, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Body.Close()
	if _, err := io.ReadFull(c.Body, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := io.Copy(io.Discard, c.Body); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d bytes more, %v", n, err)
	}
	if _, err := which(ctx, "gzip", o, bytes.NewReader(small)); !errors.Is(err, context.Canceled) {
		t.Errorf("to find out what it is: %v", err)
	}
}
