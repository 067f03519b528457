package isolation_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/oci"
)

// A layer may say where else it can be had. Nobody is asked there: whoever wrote
// the manifest chose the place.
func TestForeignLayersAreNotFollowed(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer elsewhere.Close()
	v := newVault(t)
	layer := oci.DigestOf([]byte("elsewhere"))
	image := v.reg.reg.AddManifest("acme/app", "foreign", v1.MediaTypeImageManifest, fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":9},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":%q,"size":9,"urls":[%q]}]}`,
		v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, layer, layer, elsewhere.URL+"/layer"))
	c := v.as("acme")
	for range 2 {
		for _, path := range []string{"manifests/foreign", "manifests/" + image.String()} {
			if a := c.get("/v2/reg.example/acme/app/" + path); !a.ok() {
				t.Fatal(a)
			}
		}
		if a := c.get("/v2/reg.example/acme/app/blobs/" + layer.String()); a.status != http.StatusNotFound {
			t.Errorf("the layer, which the registry does not have: %s", a)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the place that the manifest names was asked %d times", n)
	}
}
