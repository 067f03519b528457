package proxy

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

func TestGuard(t *testing.T) {
	s := newSite(t, func(o *Options) { o.Names = []string{"Berth.internal", "cache.example:5000"} })
	for host, ok := range map[string]bool{
		"localhost":           true,
		"localhost:5000":      true,
		"LOCALHOST:5000":      true,
		"localhost.:5000":     true,
		"berth.localhost":     true,
		"127.0.0.1":           true,
		"127.0.0.1:5000":      true,
		"192.168.7.9:5000":    true,
		"[::1]":               true,
		"[::1]:5000":          true,
		"[fe80::1%25eth0]:1":  true,
		"berth.internal":      true,
		"berth.internal:1":    true,
		"BERTH.internal.":     true,
		"cache.example":       true,
		"evil.example":        false,
		"evil.example:5000":   false,
		"localhost.evil.com":  false,
		"notlocalhost":        false,
		"127.0.0.1.evil.com":  false,
		"q.berth.internal":    false,
		"127.1":               false,
		"0x7f.0.0.1":          false,
		"2130706433":          false,
		"xn--localhost-2ya":   false,
		"localhost.localhost": true,
	} {
		a := s.get("/v2/", "Host", host)
		if ok {
			a.wants(t, http.StatusOK)
			continue
		}
		if a.StatusCode != http.StatusForbidden {
			t.Errorf("host %q: %d", host, a.StatusCode)
		}
		a.refuses(t, http.StatusForbidden, oci.CodeDenied, "add it under names:")
	}
	if n := strings.Count(s.log.String(), "refused a host name"); n != 1 {
		t.Errorf("%d warnings at once", n)
	}
}

func TestGuardAgainstPages(t *testing.T) {
	s := newSite(t, nil)
	own := s.server.Listener.Addr().String()
	for _, c := range []struct {
		headers []string
		status  int
	}{
		{[]string{"Origin", "http://evil.example"}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", "http://localhost:3000"}, 403},
		{[]string{"Origin", own}, 403},
		{[]string{"Origin", "http://" + own}, 200},
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Sec-Fetch-Site", "Cross-Site"}, 403},
		{[]string{"Sec-Fetch-Site", "none"}, 200},
		{[]string{"Sec-Fetch-Site", "same-origin"}, 200},
	} {
		s.get("/v2/", c.headers...).wants(t, c.status)
		if c.status == 403 {
			s.get("/v2/nginx/manifests/1", c.headers...).wants(t, 403)
		}
	}
	if len(s.routed) != 0 {
		t.Error("a page got through")
	}
}

func TestGuardWarnsOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{}
		g := newGuard(nil, slog.New(slog.NewTextHandler(log, nil)))
		for range 3 * 60 {
			if err := g.check(&http.Request{Host: "evil.example:5000", Header: http.Header{}}); err == nil {
				t.Fatal("passed")
			}
			time.Sleep(time.Second) // of the bubble's clock
		}
		if n := strings.Count(log.String(), "names: [evil.example]"); n != 3 {
			t.Errorf("%d warnings in three minutes:\n%s", n, log)
		}
	})
}
