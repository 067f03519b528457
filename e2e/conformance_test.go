//go:build e2e

package e2e

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// conformanceProgram is the official one of the distribution specification.
var conformanceProgram = program{"conformance", true}

const conformanceRepo = "conformance/repo1"

// conform runs it against a registry.
func conform(t *testing.T, at, repo string, as login, more ...string) (string, error) {
	t.Helper()
	dir := tempDir(t, "conf")
	return run(t, dir, append([]string{
		"OCI_REGISTRY=" + at, "OCI_TLS=disabled", "OCI_VERSION=1.1", "OCI_USERNAME=" + as.user, "OCI_PASSWORD=" + as.password,
		"OCI_REPO1=" + repo, "OCI_REPO2=" + repo + "-other", "OCI_RESULTS_DIR=" + filepath.Join(dir, "results"),
		"OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
	}, more...), "/bin/sh", "-c", `exec "$0" 2>&1`, conformanceProgram.find(t))
}

// conformanceData is all that the programme has put into a registry, as it wants to be
// told of what is there, and how much that is.
func conformanceData(t *testing.T, u *upstream) (variables []string, all int) {
	t.Helper()
	found := map[string]map[string]bool{"TAGS": {}, "MANIFESTS": {}, "BLOBS": {}, "REFERRERS": {}}
	has := func(path string) bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+u.addr+path, nil)
		must(t, err)
		if u.owner.user != "" {
			req.SetBasicAuth(u.owner.user, u.owner.password)
		}
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if name := digest.Digest(path[strings.LastIndex(path, "/")+1:]); strings.Contains(name.String(), ":") && !strings.Contains(path, "/referrers/") {
			// go-containerregistry's registry takes what is not what it is called, too.
			return resp.StatusCode == http.StatusOK && name.Validate() == nil && name.Algorithm().FromBytes(body) == name
		}
		return resp.StatusCode == http.StatusOK
	}
	for _, r := range u.requests("/v2/" + conformanceRepo + "/") {
		kind, reference, _ := strings.Cut(strings.TrimPrefix(r.path, "/v2/"+conformanceRepo+"/"), "/")
		query, _ := url.ParseQuery(r.query)
		switch blob := query.Get("digest"); {
		case r.method == http.MethodPut && kind == "manifests" && has(r.path) && strings.Contains(reference, ":"):
			found["MANIFESTS"][reference] = true
			if has(strings.Replace(r.path, "/manifests/", "/referrers/", 1)) {
				found["REFERRERS"][reference] = true
			}
		case r.method == http.MethodPut && kind == "manifests" && has(r.path):
			found["TAGS"][reference] = true
		case kind == "blobs" && has("/v2/"+conformanceRepo+"/blobs/"+blob):
			found["BLOBS"][blob] = true
		}
	}
	for name, some := range found {
		variables = append(variables, "OCI_RO_DATA_"+name+"="+strings.Join(slices.Sorted(maps.Keys(some)), " "))
		all += len(some)
	}
	return variables, all
}

// The official conformance programme fills real registries, and then finds through berth
// all that it had put there, as it finds it at a registry that takes no pushes.
func TestConformance(t *testing.T) {
	onlyBehindBerth(t)
	inProcess := httptest.NewServer(ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(inProcess.Close)
	w := &world{
		acme:   startRegistry(t, "registry.acme.test", acmeUpstream, acmeHash),
		globex: startRegistry(t, "registry.globex.test", globexUpstream, globexHash),
		hub:    &upstream{name: "docker.io", tap: startTap(t, strings.TrimPrefix(inProcess.URL, "http://"))},
	}
	w.berth = startBerth(t, w)
	for at, without := range map[*upstream][]string{
		w.acme: {"OCI_API_REFERRER=false"}, // which distribution does not have
		w.hub:  nil,
	} {
		t.Run(at.name, func(t *testing.T) {
			if _, err := conform(t, at.addr, conformanceRepo, at.owner, without...); err != nil {
				t.Log("the registry itself does not pass all of it")
			}
			data, n := conformanceData(t, at)
			t.Logf("%d tags, manifests, blobs and subjects", n)
			if n < 50 {
				t.Errorf("%d tags, manifests, blobs and subjects: %v", n, data)
			}
			out, err := conform(t, w.berth.tokens, at.name+"/"+conformanceRepo, w.as("acme"), append(append(data, "OCI_API_PUSH=false"), without...)...)
			// Its exit code says less: it ends in a panic, after what it says, where the API of
			// referrers is left out.
			if !strings.Contains(out, "\nOCI Conformance Test: Pass\n") {
				t.Errorf("through berth: %v\n%s", err, out)
				log, _ := os.ReadFile(w.berth.logFile())
				for line := range strings.Lines(string(log)) {
					if strings.Contains(line, "status=50") {
						t.Log(line)
					}
				}
			}
		})
	}
	noSecrets(t, w.berth)
}
