package upstream

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

// Whoever pulls what always fails uses up retries, and none of another's: of blobs, tags
// and manifests, and where a redirect leads.
func TestBudget_OfOneOrganisation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked := map[string]int{}
		r := inMemoryRegistry(t, func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[req.URL.Path]++
			answer := replyWith(200, "content", "Docker-Content-Digest", anObject.Digest.String())
			switch {
			case strings.Contains(req.URL.Path, "/dead"):
				answer = replyWith(502, "bad gateway")
			case strings.Contains(req.URL.Path, "/odd"):
				answer = replyWith(200, "<html>hello</html>", "Content-Type", "text/html")
			case strings.Contains(req.URL.Path, "/good") && asked[req.URL.Path]%2 == 1: // what a retry mends
				answer = replyWith(503, "busy")
			}
			answer.Request = req
			return answer, nil
		})
		open := func(payer, repo string) error {
			c, err := r.As(Identity{Payer: payer}).Open(t.Context(), oci.Object{Repo: repo, Kind: oci.Blob, Digest: anObject.Digest}, oci.Range{})
			if err == nil {
				readAll(t, c)
			}
			return err
		}
		var all sync.WaitGroup
		all.Go(func() {
			for i := range 400 { // each second one lives, so that no breaker opens
				_ = open("globex", []string{"dead", "odd"}[i%2])
				_ = open("globex", "lives")
				time.Sleep(250 * time.Millisecond)
			}
		})
		time.Sleep(time.Minute)
		left := 0
		for own := r.budgets.of(oci.OnBehalf(t.Context(), oci.Behalf{Payer: "globex"})); own.spend(time.Now()); left++ {
		}
		if left > 2 {
			t.Errorf("globex has %d retries left, so that this shows nothing", left)
		}
		for _, payer := range []string{"acme", "initech", ""} {
			for range 20 {
				if err := open(payer, "good"); err != nil {
					t.Errorf("%q: %v", payer, err)
				}
				time.Sleep(time.Second)
			}
		}
		all.Wait()
	})
}
