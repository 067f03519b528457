package upstream

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"

	"berth/oci"
)

// HTTP/2 is for the registries that the operator knows: whoever runs one may send frames
// over it that nobody asked for, and all of them are read.
func TestHTTP2_OnlyWhereNoOrganisationBroughtIt(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	cas := x509.NewCertPool()
	cas.AddCert(srv.Certificate())
	for owner, want := range map[string]int{"": 2, "acme": 1} {
		r := newRegistry(t, Options{Origin: oci.Origin{Owner: owner, Scheme: "https", Host: srv.Listener.Addr().String()}, CAs: cas})
		for range 2 { // a pool that takes the place of a dead one too
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := r.meta.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.ProtoMajor != want {
				t.Errorf("owner %q: HTTP/%d, want HTTP/%d", owner, resp.ProtoMajor, want)
			}
			r.conns.now().retire()
		}
	}
}
