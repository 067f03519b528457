package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"berth/oci"
)

// A token that the registry refuses is found in the first lines of the status, on the
// page and by diagnose. Over TCP, where every program may look, the page names no
// organisation.
func TestFailingTokenIsFound(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	n := s.serve()
	s.caller(n, "acme").mustPull(app, s.image, "")
	s.registry.SetPassword("globex-bot", "another")
	s.caller(n, "globex").mustRefuse(manifest, http.StatusForbidden, oci.CodeDenied)

	got := s.command("status")
	lines := strings.Split(got.out, "\n")
	if !strings.HasPrefix(lines[0], "1 pulls served, 0 charged to Docker Hub, ") || lines[2] != "! account ci of organisation globex was refused by ghcr.io: renew its token" {
		t.Errorf("%s%s", got.out, got.err)
	}
	for _, want := range []string{"globex        ghcr.io   ci       refused", "last pull by docker: ", "ghcr.io/acme/app:1  unauthorized", `refused account "ci"`} {
		if !strings.Contains(got.out, want) {
			t.Errorf("%q is not in\n%s", want, got.out)
		}
	}
	public := string(s.client(n.admin).get("/").body)
	private := onSocket(t, s.path("admin.sock"))
	for want, shown := range map[string]bool{
		"account ci of organisation globex was refused by ghcr.io": false,
		"unauthorized": false, "acme/app": false, "renew it and pull again": false, s.dir: false,
	} {
		if strings.Contains(public, want) != shown {
			t.Errorf("%q is on the page over TCP: %v\n%s", want, !shown, public)
		}
		if !strings.Contains(private, want) {
			t.Errorf("%q is not on the page on the socket\n%s", want, private)
		}
	}
	got = s.command("diagnose", app+":1", "--org", "globex")
	if got.code != exitFailed || !strings.Contains(got.out, `refused account "ci"`) {
		t.Errorf("%+v", got)
	}
}

// onSocket is the page on the commands' socket.
func onSocket(t *testing.T, path string) string {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://berth/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	a, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v: %s", a.StatusCode, err, text)
	}
	return string(text)
}
