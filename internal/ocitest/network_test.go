package ocitest

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestLoopbackOnly(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:1": true, "[::1]:443": true, "[::ffff:127.0.0.1]:80": true,
		"192.0.2.1:80": false, "10.0.0.1:80": false, "[2001:db8::1]:80": false, "0.0.0.0:80": false, "[::]:80": false, "[::ffff:10.0.0.1]:80": false, "localhost:80": false, "": false,
	} {
		if err := LoopbackOnly("tcp", address, nil); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := LoopbackOnly("unix", "/run/x", nil); err != nil {
		t.Error(err)
	}
}

// Main has made it so for this process.
func TestNoNetwork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), soon())
	defer cancel()
	for _, target := range []string{"http://192.0.2.1/", "https://[2001:db8::1]/", "http://registry.example/"} {
		hr, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		res, err := http.DefaultClient.Do(hr)
		if err == nil {
			_ = res.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "tests stay on this machine") || time.Since(start) > soon() {
			t.Errorf("%s: %v", target, err)
		}
	}
	if addrs, err := net.DefaultResolver.LookupHost(ctx, "registry.example"); err == nil || !strings.Contains(err.Error(), "tests stay on this machine") {
		t.Errorf("a look-up: %v, %v", addrs, err)
	}
	if _, err := net.DefaultResolver.LookupHost(ctx, "localhost"); err != nil {
		t.Errorf("localhost: %v", err)
	}
	r := New(t, Options{})
	hr := polite(t, http.MethodGet, r.URL()+"/v2/")
	if got, err := do(http.DefaultClient, hr); err != nil || got.status != 200 {
		t.Errorf("loopback: %d, %v", got.status, err)
	}
}
