package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"berth/auth/caller"
	"berth/internal/registry"
	"berth/oci"
)

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// A warm pull of a manifest: what the handler adds to the source and net/http.
func BenchmarkHandler_warmManifest(b *testing.B) {
	th := manifestThing()
	d := oci.DigestOf(th.data)
	h := New(Options{
		Router: testRouter(b),
		Sources: func(caller.Caller, *registry.Spec) (oci.Source, error) {
			return warmSource{oci.Descriptor{MediaType: th.mediaType, Digest: d, Size: int64(len(th.data)), Data: th.data}}, nil
		},
	})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	w := discard{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		perRequest, end := context.WithCancel(ctx) // as net/http makes one
		r := httptest.NewRequestWithContext(perRequest, http.MethodGet, "/v2/library/nginx/manifests/1", nil)
		r.Host = "localhost"
		clear(w.header)
		h.ServeHTTP(w, r)
		end()
	}
}

// warmSource has one manifest in memory, and nobody waits for anything.
type warmSource struct{ d oci.Descriptor }

func (s warmSource) Principal(string) oci.Principal { return oci.Principal{} }

func (s warmSource) Resolve(context.Context, string, string) (oci.Resolution, error) {
	return oci.Resolution{Descriptor: s.d, Outcome: oci.Outcome{Result: oci.Hit}}, nil
}

func (s warmSource) Stat(context.Context, oci.Object) (*oci.Content, error) {
	return nil, errors.ErrUnsupported
}

func (s warmSource) Open(context.Context, oci.Object, oci.Range) (*oci.Content, error) {
	return nil, errors.ErrUnsupported
}

func (s warmSource) List(context.Context, oci.ListRequest) (*oci.Page, error) {
	return nil, errors.ErrUnsupported
}
