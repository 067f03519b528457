package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"berth/internal/ocitest"
)

// elsewhere is a proxy that leads every host to one registry, and notes which were asked
// for. So hosts of the internet can be somewhere in a test.
type elsewhere struct {
	*httptest.Server

	mu    sync.Mutex
	hosts []string
}

func leadElsewhere(t *testing.T, to *ocitest.Registry) *elsewhere {
	t.Helper()
	p := &elsewhere{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.hosts = append(p.hosts, r.Host)
		p.mu.Unlock()
		out, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", strings.TrimPrefix(to.URL(), "https://"))
		if err != nil || r.Method != http.MethodConnect {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		defer out.Close()
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer in.Close()
		fmt.Fprint(in, "HTTP/1.1 200 OK\r\n\r\n")
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(out, in); out.Close() })
		both.Go(func() { _, _ = io.Copy(in, out); in.Close() })
		both.Wait()
	}))
	t.Cleanup(p.CloseClientConnections)
	t.Cleanup(p.Close)
	return p
}

func (p *elsewhere) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.hosts...)
}

// TestUnlisted_Public: with unlisted_registries: public any host is a registry, over https
// and as nobody, for organisations too; this node and private addresses are none. Metrics
// have one name for all of them.
func TestUnlisted_Public(t *testing.T) {
	t.Parallel()
	r := ocitest.New(t, ocitest.Options{TLS: true})
	img := r.AddImage("team/app", "1", ocitest.Image{Seed: 1, Layers: []int64{1 << 10}})
	p := leadElsewhere(t, r)
	h := newHome(t)
	h.more = "unlisted_registries: public\nupstream: {proxy: \"" + p.URL + "\"}\n"
	h.tenant("acme")
	h.registry("private.test", ocitest.New(t, ocitest.Options{}))
	h.credential("acme", "ci", "private.test", "user", "secret-canary")
	cas := filepath.Join(h.dir, "cas.pem")
	h.write(cas, string(r.CertPEM()))
	n := h.run("SSL_CERT_FILE="+cas, "SSL_CERT_DIR=/nowhere")
	for _, c := range []*client{h.nobody(n), h.as(n, "acme")} {
		for _, path := range []string{
			"/v2/example.com/team/app/manifests/1",
			"/v2/team/app/manifests/1?ns=example.com",
			"/v2/example.com/team/app/manifests/1?ns=example.com",
			"/example.com/v2/team/app/manifests/1",
			"/v2/example.com_443/team/app/blobs/" + string(img.Platforms[0].Layers[0]),
		} {
			if a := c.get(path); a.status != http.StatusOK {
				t.Errorf("%s", a)
			}
		}
		for _, path := range []string{
			"/v2/127.0.0.1_5001/app/manifests/1", "/v2/10.0.0.1/app/manifests/1", "/v2/169.254.169.254/latest/manifests/1", "/v2/localhost_5001/app/manifests/1",
			"/v2/app/manifests/1?ns=[::1]:5001", "/v2/app/manifests/1?ns=a@example.com", "/v2/app/manifests/1?ns=example.com/x", "/v2/app/manifests/1?ns=Exa%20mple.com", "/v2/app/manifests/1?ns=a.localhost",
		} {
			if a := c.get(path); a.status != http.StatusForbidden || !strings.Contains(a.message(), "is not configured on this node") {
				t.Errorf("%s", a)
			}
		}
	}
	if a := h.as(n, "acme").get("/v2/acme/example.com/team/app/manifests/1"); a.status != http.StatusOK {
		t.Errorf("behind the organisation: %s", a)
	}
	if a := h.as(n, "acme").get("/v2/globex/example.com/team/app/manifests/1"); a.status != http.StatusForbidden {
		t.Errorf("behind another's: %s", a)
	}
	for _, host := range p.asked() {
		if host != "example.com:443" {
			t.Errorf("%s was asked", host)
		}
	}
	for _, request := range r.Requests(ocitest.Match{}) {
		if request.User != "" {
			t.Errorf("it came as somebody: %+v", request)
		}
	}
	metrics := n.metrics()
	for line := range strings.SplitSeq(metrics, "\n") {
		if strings.Contains(line, `"example.com`) {
			t.Errorf("%s", line)
		}
	}
	if !strings.Contains(metrics, `registry="other"`) {
		t.Error("nothing is counted for other registries")
	}
}
