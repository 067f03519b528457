package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/auth/caller"
	"berth/internal/limit"
	"berth/internal/secret"
	"berth/oci"
)

// Manifests and lists are in memory until their clients have taken them: what an
// organisation has there of one registry is bounded, and others do not wait for it.
func TestMemory_OfManifestsAndLists(t *testing.T) {
	memory := &limit.Pool{Most: 2 * oci.MaxManifest}
	s := tokenSite(t, func(o *Options) { o.Memory = memory })
	manifest := "/v2/nginx/manifests/" + string(withManifest(s, manifestThing()))
	s.fake.page = &oci.Page{Body: bytes.Repeat([]byte(" "), maxList)}
	acme, globex := basicHeader("acme", "acme-canary-secret"), basicHeader("globex", "globex-canary-secret")

	inside, open := s.fake.holds(t)
	var wg sync.WaitGroup
	for range 3 { // two that the registry is slow with, and one that waits for their memory
		wg.Go(func() { s.get(manifest, acme...).wants(t, http.StatusOK) })
	}
	<-inside
	<-inside
	waits(t, memory, "acme", 1)
	s.fake.setBefore(nil)
	s.get(manifest, globex...).wants(t, http.StatusOK)
	s.head(manifest, acme...).wants(t, http.StatusOK)
	open()
	wg.Wait()

	// A client that takes nothing of a list that no socket holds.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+"/v2/nginx/tags/list", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("acme", "acme-canary-secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { s.get(manifest, acme...).wants(t, http.StatusOK) })
	waits(t, memory, "acme", 1)
	s.get(manifest, globex...).wants(t, http.StatusOK)
	resp.Body.Close()
	wg.Wait()
}

// Where only the document tells what a manifest is, a HEAD reads it, and that counts as
// long as it is read.
func TestMemory_OfManifestsByHEAD(t *testing.T) {
	memory := &limit.Pool{Most: 2 * oci.MaxManifest}
	s := tokenSite(t, func(o *Options) { o.Memory = memory })
	d := s.fake.put("acme/app", oci.Manifest, manifestThing())
	acme := basicHeader("acme", "acme-canary-secret")
	inside, open := s.fake.holds(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { s.head("/v2/ghcr.io/acme/app/manifests/"+string(d), acme...).wants(t, http.StatusOK) })
	}
	<-inside
	<-inside
	waits(t, memory, "acme", 3)
	open()
	wg.Wait()
	if slot, err := memory.Take(t.Context(), limit.Want{Organisation: "acme", At: "ghcr.io", N: 2 * oci.MaxManifest}); err != nil {
		t.Errorf("memory is lost: %v", err)
	} else {
		slot.Release()
	}
}

// begins asks as who and takes nothing of the answer.
func (s *site) begins(who, path string) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.server.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.SetBasicAuth(who, who+"-canary-secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// Clients that take nothing of their lists have all memory but the last quarter, and each
// of four organisations a manifest in that. What lies in memory is answered; what does not
// has one of those clients cut off, and nothing else.
func TestMemory_HeldByClientsThatTakeTheirTime(t *testing.T) {
	memory := &limit.Pool{Total: 4 * maxList, Most: 4 * maxList, Small: oci.MaxManifest, Levels: true, Wait: 20 * time.Second, Queue: 1000}
	villain := caller.Organisation{Name: "villain", Tokens: []caller.Token{{Name: "node", SHA256: caller.HashToken(secret.New("villain-canary-secret"))}}}
	s := tokenSite(t, func(o *Options) { o.Memory = memory }, villain)
	hot, large := manifestThing(), &thing{mediaType: ociManifest, data: bytes.Repeat([]byte(" "), 4*untaken)}
	hot.hot, large.hot = true, true
	warm, warmLarge := "/v2/nginx/manifests/"+string(withManifest(s, hot)), "/v2/nginx/manifests/"+string(withManifest(s, large))
	cold := "/v2/nginx/manifests/" + string(withManifest(s, &thing{mediaType: ociManifest, data: []byte(`{"schemaVersion":2}`)}))
	s.fake.page = &oci.Page{Body: bytes.Repeat([]byte(" "), maxList)}
	acme := basicHeader("acme", "acme-canary-secret")

	var slow []*http.Response
	for range 3 {
		slow = append(slow, s.begins("villain", "/v2/nginx/tags/list"))
	}
	s.get(cold, acme...).wants(t, http.StatusOK)
	s.get(warmLarge, acme...).wants(t, http.StatusOK)
	for _, other := range []string{"a", "b", "c", "d"} {
		slot := memory.Charge(other, oci.MaxManifest)
		defer slot.Release()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := memory.Take(ctx, limit.Want{Organisation: "acme", N: 1}); err == nil {
		t.Fatal("there is memory left")
	}
	s.get(warm, acme...).wants(t, http.StatusOK)
	s.get(cold, acme...).wants(t, http.StatusOK)
	cut := 0
	for _, resp := range slow {
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil && n < maxList {
			cut++
		}
	}
	if cut != 1 {
		t.Errorf("%d clients were cut off", cut)
	}
	s.server.Close() // waits for the handlers, and so for the log
	if n := strings.Count(s.log.String(), "while others waited for the memory"); n != 1 {
		t.Errorf("%d lines about it", n)
	}
}

// An answer that is cut off when it has just been written has failed: what of it lies in a
// buffer cannot leave, nor could the next answer on the connection.
func TestMemory_CutAtTheEnd(t *testing.T) {
	client := &deadlined{ResponseWriter: httptest.NewRecorder()}
	w := &response{under: client, control: *http.NewResponseController(client), buffers: new(sync.Pool), stall: time.Minute}
	if err := w.writeWhole([]byte("all of it")); err != nil {
		t.Fatal(err)
	}
	w.cut()
	w.extendTime(time.Now()) // it was about to
	if !client.until.Before(time.Now()) {
		t.Errorf("it may go on until %v", client.until)
	}
	if err := w.finish(); !errors.Is(err, errLeft) {
		t.Errorf("it ends with %v", err)
	}
	next := &response{under: client, control: *http.NewResponseController(client), stall: time.Minute}
	next.ended()
	next.extendTime(time.Now())
	if next.cut(); client.until.Before(time.Now()) {
		t.Error("an answer that has ended is cut")
	}
}

// deadlined is a client with a write deadline.
type deadlined struct {
	http.ResponseWriter

	until time.Time
}

func (d *deadlined) SetWriteDeadline(t time.Time) error {
	d.until = t
	return nil
}

// A request takes its share once, and what asks for it after its end takes none.
func TestMemory_IsTakenOnce(t *testing.T) {
	pool := &limit.Pool{Most: 2 * oci.MaxManifest}
	m := memory{pool: pool, want: limit.Want{Organisation: "acme", N: oci.MaxManifest}}
	has := func(what string, want int64) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		free := 2*oci.MaxManifest - want
		slot, err := pool.Take(ctx, limit.Want{Organisation: "acme", N: free})
		if err != nil {
			t.Errorf("%s: it has more than %d", what, want)
		}
		slot.Release()
		if want > 0 {
			if slot, err := pool.Take(ctx, limit.Want{Organisation: "acme", N: free + 1}); err == nil {
				t.Errorf("%s: it has less than %d", what, want)
				slot.Release()
			}
		}
	}
	for range 2 {
		if err := m.Need(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		has("taken", oci.MaxManifest)
	}
	release, ok := m.Keep()
	over, err := m.keeps(t.Context(), 2*untaken, &response{})
	if err != nil || !ok {
		t.Fatal(err, ok)
	}
	has("kept", oci.MaxManifest)
	release()
	has("shrunk", 2*untaken)
	over()
	m.release(memoryOver)
	m.release(memoryOver)
	has("over", 0)
	if err := m.Need(t.Context(), nil); err != nil {
		t.Error(err)
	}
	has("asked for after its end", 0)
	small := memory{pool: pool, want: m.want}
	if err := small.Need(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := small.keeps(t.Context(), untaken, nil); err != nil {
		t.Fatal(err)
	}
	has("a small one", 0)

	full := pool.Charge("acme", 2*oci.MaxManifest)
	late := memory{pool: pool, want: m.want}
	needs := make(chan error)
	go func() { needs <- late.Need(t.Context(), nil) }()
	waits(t, pool, "acme", 1)
	late.release(memoryOver)
	full.Release()
	if err := <-needs; err != nil {
		t.Error(err)
	}
	has("taken when it was over", 0)
}

func waits(t *testing.T, p *limit.Pool, organisation string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for p.Waiting()[organisation] != n {
		select {
		case <-ctx.Done():
			t.Fatalf("%d wait, want %d", p.Waiting()[organisation], n)
		case <-time.After(time.Millisecond):
		}
	}
}
