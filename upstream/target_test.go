package upstream

import (
	"fmt"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// A redirect target that fails, in whatever way, says nothing: the registry may name a
// better one, and is asked for it, a few times.
func TestTarget_ThatFailsIsNotTheLast(t *testing.T) {
	for name, fault := range map[string]ocitest.Fault{
		"400": ocitest.Status(400), "403": ocitest.Status(403), "410": ocitest.Status(410), "429": ocitest.Status(429, "Retry-After", "60"),
		"500": ocitest.Status(500, "Retry-After", "60"), "a page": page(200), "a page with 403": page(403), "no answer": ocitest.Drop(),
	} {
		for _, failures := range []int{1, maxTargets} {
			t.Run(fmt.Sprint(name, ", ", failures), func(t *testing.T) {
				up := ocitest.New(t, ocitest.Options{CDN: ocitest.CDNSame})
				o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddNoise("acme/app", 1, 1000)}
				times := failures
				switch {
				case failures == maxTargets:
					times = 0 // for ever
				case name == "no answer":
					times *= targetRetries + 1
				}
				up.Inject(ocitest.Match{Server: ocitest.CDNServer}, times, fault)
				c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{})
				asked := up.Count(ocitest.Match{Server: ocitest.RegistryServer, Kind: ocitest.Blob})
				if failures < maxTargets {
					if err != nil || asked != failures+1 {
						t.Fatalf("asked %d times: %v", asked, err)
					}
					readAll(t, c)
					return
				}
				if err == nil {
					c.Close() // it should not be there
				}
				if err == nil || asked < maxTargets || asked > 3*maxTargets { // nonsense is asked about a few times
					t.Errorf("every target fails, and the registry was asked %d times: %v", asked, err)
				}
			})
		}
	}
}
