package isolation_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
)

// Secrets change while requests run: none goes upstream with one's user name and
// another's password, and none begins with an old one once the new one has been
// there for a second.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	rotations := 200
	if os.Getenv("BERTH_LONG") != "" {
		rotations = 1000
	}
	w := newWorld(t)
	type pair struct{ user, password string }
	var mu sync.Mutex
	current := map[string]int{} // by organisation: which of its pairs is in force
	replaced := map[pair]time.Time{}
	name := func(org string, n int) pair {
		return pair{fmt.Sprintf("user-%s-%d", org, n), fmt.Sprintf("pass-%s-%d", org, n)}
	}
	p := w.registry("reg.example", "", ocitest.Options{Auth: ocitest.Basic, Private: true, Fault: func(r ocitest.Request) ocitest.Fault {
		raw, basic := strings.CutPrefix(r.Header.Get("Authorization"), "Basic ")
		if !basic {
			return ocitest.Fault{}
		}
		said, _ := base64.StdEncoding.DecodeString(raw)
		user, password, _ := strings.Cut(string(said), ":")
		var n int
		org, _, _ := strings.Cut(strings.TrimPrefix(user, "user-"), "-")
		_, err := fmt.Sscanf(user, "user-"+org+"-%d", &n)
		mu.Lock()
		at, old := replaced[name(org, n)]
		mu.Unlock()
		switch {
		case err != nil || password != name(org, n).password:
			t.Errorf("%q with %q", user, password)
		case old && time.Since(at) > time.Second:
			t.Errorf("%q came %v after it was replaced", user, time.Since(at))
		case r.Repo != "" && r.Repo != org+"/app":
			t.Errorf("%s asked for %s", user, r.Repo)
		}
		return ocitest.Fault{}
	}})
	orgs := []string{"acme", "bolt", "crux"}
	accounts := map[string]*account{}
	images := map[string]ocitest.Pushed{}
	for i, org := range orgs {
		w.organisation(org)
		accounts[org] = w.account(org, "main", p)
		accounts[org].set(name(org, 0).user, name(org, 0).password)
		p.reg.AddUser(name(org, 0).user, name(org, 0).password, org+"/app")
		images[org] = p.reg.AddImage(org+"/app", "v1", ocitest.Image{Layers: []int64{5000}, Seed: uint64(i)})
	}
	w.start()
	stop := make(chan struct{})
	var pulling sync.WaitGroup
	var pulled atomic.Int32
	for _, org := range orgs {
		for range 2 {
			c, img := w.as(org), images[org]
			pulling.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					a := c.pull("reg.example/"+org+"/app", img, 0)
					// A request that was under way while the secret changed may be told so.
					switch {
					case a.ok():
						pulled.Add(1)
					case a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") != "1":
						t.Errorf("%s", a)
						return
					}
				}
			})
		}
	}
	for i := range rotations {
		org := orgs[i%len(orgs)]
		before := pulled.Load()
		mu.Lock()
		n := current[org] + 1
		mu.Unlock()
		next := name(org, n)
		p.reg.AddUser(next.user, next.password, org+"/app") // both are good for a moment, as registries do it
		accounts[org].set(next.user, next.password)
		mu.Lock()
		current[org], replaced[name(org, n-1)] = n, time.Now()
		mu.Unlock()
		w.configure()
		for pulled.Load() < before+3 && !t.Failed() { // something was pulled between two rotations
			w.as("nobody").get("/v2/")
		}
	}
	close(stop)
	pulling.Wait()
	t.Logf("%d pulls over %d rotations", pulled.Load(), rotations)

	// And an organisation that is taken out is out.
	kept := w.as("acme")
	token := w.tokens["acme"]
	delete(w.tokens, "acme")
	w.configure()
	kept.password = token
	p.reg.Forget()
	for _, path := range []string{"/v2/", "/v2/reg.example/acme/app/manifests/v1", "/v2/reg.example/acme/app/blobs/" + images["acme"].Platforms[0].Layers[0].String()} {
		if a := kept.get(path); a.status != http.StatusUnauthorized {
			t.Errorf("removed: %s", a)
		}
	}
	if n := p.reg.Count(ocitest.Match{}); n != 0 {
		t.Errorf("the registry was asked %d times for somebody who is gone", n)
	}
}

// Two accounts of one organisation at one registry: a caller takes the one it
// names, nothing goes from one to the other, and messages and metrics say which.
func TestTwoAccounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.registry("reg.example", "", ocitest.Options{Auth: ocitest.Bearer, Private: true, LiveRights: true})
	w.organisation("acme")
	w.organisation("bolt")
	images := map[string]ocitest.Pushed{}
	for i, name := range []string{"shop", "mill"} {
		a := w.account("acme", name, p, "acme/"+name)
		a.repositories = []string{"acme/" + name, "acme/both"}
		images[name] = p.reg.AddImage("acme/"+name, "v1", ocitest.Image{Layers: []int64{5000}, Seed: uint64(i)})
	}
	w.account("bolt", "shop", p)
	for _, a := range w.accounts[:2] {
		a.repositories = nil
	}
	w.start()
	for _, one := range []struct{ own, other string }{{"shop", "mill"}, {"mill", "shop"}} {
		c := w.as("acme+" + one.own)
		if a := c.pull("reg.example/acme/"+one.own, images[one.own], 0); !a.ok() {
			t.Errorf("its own: %s", a)
		}
	}
	for _, one := range []struct{ own, other string }{{"shop", "mill"}, {"mill", "shop"}} {
		c := w.as("acme+" + one.own) // everything is cached now
		for _, path := range []string{"manifests/v1", "manifests/" + images[one.other].Digest.String(), "blobs/" + images[one.other].Platforms[0].Layers[0].String()} {
			a := c.get("/v2/reg.example/acme/" + one.other + "/" + path)
			if a.status != http.StatusForbidden {
				t.Errorf("%s got what %s may read: %s", one.own, one.other, a)
			}
			if body := string(a.body); !strings.Contains(body, `account \"`+one.own) || strings.Contains(body, `account \"`+one.other) {
				t.Errorf("the message names another account: %s", a)
			}
		}
	}
	for _, q := range p.reg.Requests(ocitest.Match{Kind: ocitest.Blob}) {
		if want := "user-acme-" + strings.TrimPrefix(q.Repo, "acme/"); q.Status < 300 && q.User != want {
			t.Errorf("%s for %s", q.User, q.Repo)
		}
	}
	for _, user := range []string{"acme+none", "bolt+mill"} {
		p.reg.Forget()
		a := w.as(user).get("/v2/reg.example/acme/mill/manifests/v1")
		if a.status != http.StatusForbidden || p.reg.Count(ocitest.Match{}) != 0 {
			t.Errorf("an account that is not there: %s", a)
		}
	}
	failures := map[string]float64{}
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "berth_pull_failures_total" {
			for _, m := range f.GetMetric() {
				by := map[string]string{}
				for _, l := range m.GetLabel() {
					by[l.GetName()] = l.GetValue()
				}
				failures[by["organisation"]+" "+by["registry"]+" "+by["reason"]] += m.GetCounter().GetValue()
			}
		}
	}
	if failures["acme reg.example denied"] == 0 || failures["bolt reg.example denied"] == 0 {
		t.Errorf("failures are %v", failures)
	}
}
