package isolation_test

import (
	"net/http"
	"testing"

	"berth/internal/ocitest"
)

// A refusal takes as many questions to the registry whether or not the content
// is in the cache: one that took twice as long would tell.
func TestDenialTakesTheSame(t *testing.T) {
	t.Parallel()
	for _, how := range []ocitest.Refusal{ocitest.RefuseScope, ocitest.RefuseForbidden, ocitest.RefuseNotFound, ocitest.RefuseAtToken} {
		cold, warm := newVault(t), newVault(t)
		warm.warm()
		for _, v := range []*vault{cold, warm} {
			v.reg.reg.SetRefusal(how)
			v.organisation("crux")
			v.configure()
		}
		const its, own = "/v2/reg.example/acme/app/", "/v2/reg.example/bolt/own/"
		for _, d := range []struct{ who, path string }{
			{"bolt", its + "manifests/" + cold.manifest.String()},
			{"bolt", its + "blobs/" + cold.layer.String()},
			{"bolt", own + "manifests/" + cold.manifest.String()},
			{"bolt", own + "blobs/" + cold.layer.String()},
			{"crux", its + "manifests/" + cold.manifest.String()},
			{"crux", its + "blobs/" + cold.layer.String()},
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				for _, time := range []string{"at first", "again"} {
					var asked [2]int
					for i, v := range []*vault{cold, warm} {
						before := v.reg.reg.Count(ocitest.Match{})
						if a := v.as(d.who).do(method, d.path); a.ok() {
							t.Fatalf("not refused: %s", a)
						}
						asked[i] = v.reg.reg.Count(ocitest.Match{}) - before
					}
					if asked[0] != asked[1] {
						t.Errorf("refusal %d, %s, %s %s, %s: %d requests where it is not cached, %d where it is",
							how, d.who, method, d.path, time, asked[0], asked[1])
					}
				}
			}
		}
	}
}
