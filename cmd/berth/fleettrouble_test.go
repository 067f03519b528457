package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"berth/internal/ocitest"
)

// before puts a server before the bucket, which does trouble in its place where that
// answers. It counts what comes.
func (c *crew) before(trouble func(w http.ResponseWriter, r *http.Request) (answered bool)) (asked *atomic.Int64) {
	c.t.Helper()
	asked = new(atomic.Int64)
	bucket := *c.s3.Endpoint
	through := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(&bucket); r.Out.Host = r.In.Host }, // which is signed
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	transport := &http.Transport{}
	through.Transport = transport
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if !trouble(w, r) {
			through.ServeHTTP(w, r)
		}
	}))
	ctx, end := context.WithCancel(context.Background())
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.Start()
	c.t.Cleanup(func() {
		end() // one that drips would go on with what has come
		s.CloseClientConnections()
		s.Close()
		transport.CloseIdleConnections()
	})
	at, err := url.Parse(s.URL)
	if err != nil {
		c.t.Fatal(err)
	}
	c.s3.Endpoint = at
	return asked
}

// dripping takes and gives a byte a second.
func dripping(w http.ResponseWriter, r *http.Request) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	if r.Method == http.MethodGet {
		w.Header().Set("Content-Length", fmt.Sprint(1<<20))
	}
	for one := make([]byte, 1); ; {
		select {
		case <-r.Context().Done():
			return true
		case <-tick.C:
		}
		if r.Method == http.MethodPut {
			if _, err := r.Body.Read(one); err != nil && err != io.EOF {
				return true
			}
			continue
		}
		if _, err := w.Write(one); err != nil || http.NewResponseController(w).Flush() != nil {
			return true
		}
	}
}

// full takes nothing more.
func full(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPut {
		return false
	}
	w.WriteHeader(http.StatusInsufficientStorage)
	_, _ = io.WriteString(w, "<Error><Code>InsufficientStorage</Code></Error>") // or the client has left
	return true
}

// skewed answers what the bucket says to a request that was signed an hour ago.
func (c *crew) skewed() func(w http.ResponseWriter, r *http.Request) bool {
	c.t.Helper()
	req, err := http.NewRequestWithContext(soon(c.t), http.MethodGet, c.s3.Endpoint.String()+"/"+c.s3.Bucket+"/v1/x", http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	nothing := sha256.Sum256(nil)
	payload := hex.EncodeToString(nothing[:])
	req.Header.Set("X-Amz-Content-Sha256", payload)
	key := aws.Credentials{AccessKeyID: c.s3.AccessKey, SecretAccessKey: c.s3.Secret}
	if err := v4.NewSigner().SignHTTP(context.Background(), key, req, payload, "s3", "us-east-1", time.Now().Add(-time.Hour)); err != nil {
		c.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: c.homes[0].transport}).Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest {
		c.t.Fatalf("an old signature: %s, %v", resp.Status, err)
	}
	c.t.Logf("an old signature: %s %s", resp.Status, body)
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(body) // or the client has left
		return true
	}
}

// forgetting flushes the coordinator twice a second until the test ends.
func (c *crew) forgetting() {
	stop := make(chan struct{})
	var all sync.WaitGroup
	c.t.Cleanup(func() { close(stop); all.Wait() })
	all.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.redis.Do("flushall")
			case <-stop:
				return
			}
		}
	})
}

// troubles are what may be wrong with an engine all the time.
var troubles = map[string]func(c *crew) (asked *atomic.Int64){
	"bucket slow": func(c *crew) *atomic.Int64 { return c.before(dripping) },
	"bucket full": func(c *crew) *atomic.Int64 { return c.before(full) },
	"wrong clock": func(c *crew) *atomic.Int64 { return c.before(c.skewed()) },
	"wrong access key": func(c *crew) *atomic.Int64 {
		c.s3.Secret += "x"
		return c.before(func(http.ResponseWriter, *http.Request) bool { return false })
	},
	"wrong fleet key": func(c *crew) *atomic.Int64 {
		for i, h := range c.homes {
			h.write(filepath.Join(h.dir, "fleet-key"), fmt.Sprintf("%064x\n", 1+i))
		}
		return nil
	},
	"coordinator forgets": func(c *crew) *atomic.Int64 { c.forgetting(); return nil },
}

// pullAll pulls an image on all nodes at once, and says how long the last took.
func (c *crew) pullAll(nodes []*running, image ocitest.Pushed) time.Duration {
	c.t.Helper()
	begin := time.Now()
	var pulls sync.WaitGroup
	for i, h := range c.homes {
		pulls.Go(func() { h.client(nodes[i].doors[openDoor]).mustPull("app", image, "") })
	}
	pulls.Wait()
	return time.Since(begin)
}

// An engine in trouble fails no pull. It costs the first its patience, and those after
// it nothing: nobody asks it any more, but to find out whether it is back.
func TestFleet_EnginesInTrouble(t *testing.T) {
	t.Parallel()
	long := os.Getenv("BERTH_LONG") != ""
	images, size, rate := 2, int64(4<<20), int64(32<<20)
	if long {
		images, size, rate = 6, 24<<20, 4<<20
	}
	var without []time.Duration
	for _, what := range slices.Sorted(maps.Keys(troubles)) {
		t.Run(what, func(t *testing.T) {
			hub := ocitest.New(t, ocitest.Options{})
			hub.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Slow(rate))
			var all []ocitest.Pushed
			for i := range images {
				all = append(all, hub.AddImage("library/app", fmt.Sprint(i), ocitest.Image{Layers: []int64{size}, Seed: uint64(i)}))
			}
			if without == nil && long { // once, the same nodes without a fleet
				alone := &crew{t: t}
				var nodes []*running
				for range 3 {
					h := newHome(t)
					h.registry("docker.io", hub)
					alone.homes, nodes = append(alone.homes, h), append(nodes, h.build())
				}
				for _, image := range all {
					without = append(without, alone.pullAll(nodes, image))
				}
				slices.Sort(without)
				t.Logf("without a fleet: %v", without)
			}
			c := newCrew(t, 3, hub, nil)
			asked := troubles[what](c)
			var nodes []*running
			for i, h := range c.homes {
				if asked != nil { // they go through it
					h.more = ""
					h.fleet(c, nodeName(i))
				}
				nodes = append(nodes, h.build())
			}
			first := c.pullAll(nodes, all[0])
			if asked != nil {
				asked.Store(0)
			}
			var after []time.Duration
			for _, image := range all[1:] {
				after = append(after, c.pullAll(nodes, image))
			}
			slices.Sort(after)
			t.Logf("the first %v, those after it %v", first, after)
			if asked != nil && what != "bucket full" && asked.Load() > int64(3*2*images) {
				t.Errorf("the bucket was asked %d times after that", asked.Load())
			}
			if !long {
				return
			}
			alone, median := without[len(without)/2], after[len(after)/2]
			most := alone * 105 / 100
			if what == "coordinator forgets" { // twice a second, and so in each pull
				most += 4 * time.Second
			}
			if first > alone+4*time.Second+alone/20 || median > most {
				t.Errorf("the first took %v and those after it %v; without a fleet %v", first, median, alone)
			}
		})
	}
}
