package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/auth/caller"
	"berth/internal/registry"
	"berth/oci"

	"berth/upstream/classify"
)

// Every class: its status, code, message, metric, line in the log and entry
// among the failures.
func TestClasses(t *testing.T) {
	left := map[oci.Class]bool{}
	for _, class := range oci.Classes() {
		left[class] = true
	}
	for _, c := range []struct {
		fails   error
		status  int
		code    oci.Code
		retry   string
		counted string // reason; "" none
	}{
		{&oci.Error{Class: oci.Unauthorized}, 403, "DENIED", "", "unauthorized"},
		{&oci.Error{Class: oci.Denied}, 403, "DENIED", "", "denied"},
		{&oci.Error{Class: oci.NoCredential}, 403, "DENIED", "", "no_credential"},
		{&oci.Error{Class: oci.NotFound}, 404, "MANIFEST_UNKNOWN", "", "not_found"},
		{&oci.Error{Class: oci.NotFound, Code: oci.CodeNameUnknown}, 404, "NAME_UNKNOWN", "", "not_found"},
		{&oci.Error{Class: oci.RateLimited}, 429, "TOOMANYREQUESTS", "60", "rate_limited"},
		{&oci.Error{Class: oci.RateLimited, RetryAfter: 41*time.Minute + 1}, 429, "TOOMANYREQUESTS", "2461", "rate_limited"},
		{&oci.Error{Class: oci.Unreachable}, 503, "UNKNOWN", "5", "unreachable"},
		{&oci.Error{Class: oci.Unreachable, RetryAfter: time.Millisecond}, 503, "UNKNOWN", "1", "unreachable"},
		{&oci.Error{Class: oci.Timeout}, 503, "UNKNOWN", "5", "timeout"},
		{&oci.Error{Class: oci.UpstreamError}, 503, "UNKNOWN", "5", "upstream_error"},
		{&oci.Error{Class: oci.Corrupt}, 503, "UNKNOWN", "5", "corrupt"},
		{&oci.Error{Class: oci.Disk}, 503, "UNKNOWN", "5", "disk"},
		{&oci.Error{Class: oci.Caller}, 403, "DENIED", "", "caller"},
		{&oci.Error{Class: oci.Policy}, 403, "DENIED", "", "policy"},
		{&oci.Error{Class: oci.WrongPlatform}, 503, "UNKNOWN", "5", ""}, // no error, says its status
		{&oci.Error{Class: oci.ClientGone}, 503, "UNKNOWN", "5", "upstream_error"},
		{errors.New("boom"), 503, "UNKNOWN", "5", "upstream_error"},
		{context.Canceled, 503, "UNKNOWN", "5", "upstream_error"},
		{context.DeadlineExceeded, 503, "UNKNOWN", "5", "timeout"},
	} {
		e, isError := errors.AsType[*oci.Error](c.fails)
		message := ""
		delete(left, oci.ClassOf(c.fails))
		if isError {
			e.Message, e.Detail = "organisation acme: what happened", "a detail"
			message = e.Message
		}
		if isError && e.Class == oci.ClientGone {
			message, e.Detail = "pull again", "" // nobody left: it is our own giving up
		}
		t.Run(fmt.Sprint(c.fails, c.retry, c.code), func(t *testing.T) {
			s, failures, _ := keeping(t, nil)
			s.fake.fails["resolve"] = fmt.Errorf("opening it: %w", c.fails)
			for range 2 {
				a := s.get("/v2/nginx/manifests/1")
				entry := a.refuses(t, c.status, c.code, message)
				a.header(t, "Retry-After", c.retry).header(t, "Docker-Distribution-Api-Version", "registry/2.0")
				if isError && entry.Detail != e.Detail {
					t.Errorf("detail %q", entry.Detail)
				}
				h := s.head("/v2/nginx/manifests/1").wants(t, c.status).sends(t, nil).header(t, "Content-Type", "application/json").header(t, "Retry-After", c.retry)
				if h.ContentLength <= 0 {
					t.Errorf("HEAD with Content-Length %d", h.ContentLength)
				}
			}
			if got := s.value("berth_pull_failures_total", "organisation", "acme", "registry", "docker.io", "reason", c.counted); c.counted != "" && got != 1 {
				t.Errorf("%v failures counted as %s: one pull is one", got, c.counted)
			}
			if got := s.value("berth_requests_total", "organisation", "acme", "registry", "docker.io", "kind", "manifest", "result", "failed"); got != 4 {
				t.Errorf("%v failed requests counted", got)
			}
			all := failures.Of("acme", time.Time{})
			if c.counted == "" != (len(all) == 0) || len(all) == 1 && (all[0].Class.String() != c.counted || all[0].Count != 1 || !strings.Contains(all[0].Message, message)) {
				t.Errorf("kept: %+v", all)
			}
			s.server.Close()
			for _, line := range s.log.lines(t) {
				text, _ := line["message"].(string)
				if c.counted != "" && line["class"] != c.counted || line["status"] != float64(c.status) || !strings.Contains(text, message) {
					t.Errorf("%v", line)
				}
			}
		})
	}
	if len(left) > 0 {
		t.Errorf("nothing is said of %v", left)
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	s := newSite(t, nil)
	for _, c := range []struct {
		method, path string
		status       int
		code         oci.Code
	}{
		{"POST", "/v2/nginx/blobs/uploads/", 405, "UNSUPPORTED"},
		{"PUT", "/v2/nginx/manifests/1", 405, "UNSUPPORTED"},
		{"PATCH", "/v2/nginx/manifests/1", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/nginx/manifests/1", 405, "UNSUPPORTED"},
		{"OPTIONS", "/v2/", 405, "UNSUPPORTED"},
		{"BREW", "/v2/", 405, "UNSUPPORTED"},
		{"GET", "/", 404, "UNSUPPORTED"},
		{"POST", "/", 404, "UNSUPPORTED"},
		{"GET", "/v1/search", 404, "UNSUPPORTED"},
		{"GET", "/v2/_catalog", 404, "UNSUPPORTED"},
		{"GET", "/v2/nginx/blobs/uploads/x", 404, "UNSUPPORTED"},
		{"GET", "/v2/NGINX/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/nginx/manifests/-", 400, "MANIFEST_INVALID"},
		{"GET", "/v2/nginx/manifests/sha256:abc", 400, "DIGEST_INVALID"},
		{"GET", "/v2/nginx/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		{"GET", "/v2/a%2E%2Fb/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/nginx/../evil/manifests/1", 400, "NAME_INVALID"},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			s.ask(c.method, c.path).refuses(t, c.status, c.code, " ")
			if c.method == "GET" {
				s.head(c.path).wants(t, c.status).sends(t, nil)
			}
		})
	}
	if got := s.value("berth_pull_failures_total"); got != 0 {
		t.Errorf("%v failed pulls, where none was meant", got)
	}
	if got := s.value("berth_requests_total"); got != 0 {
		t.Errorf("%v requests for content, where none was understood", got)
	}
}

func TestUnroutableIsCountedWithoutRegistry(t *testing.T) {
	s := newSite(t, func(o *Options) { o.Organisation = "acme" })
	s.get("/v2/q.example/app/manifests/1").refuses(t, http.StatusForbidden, oci.CodeDenied, `registry "q.example" is not configured on this node: add it under registries:`)
	if got := s.value("berth_pull_failures_total", "organisation", "acme", "registry", "-", "reason", "policy"); got != 1 {
		t.Errorf("%v counted", got)
	}
	if got := s.value("berth_requests_total", "organisation", "acme", "registry", "-", "kind", "manifest", "result", "failed"); got != 1 {
		t.Errorf("%v counted", got)
	}
}

func TestSourcesMayRefuse(t *testing.T) {
	s := newSite(t, func(o *Options) {
		o.Sources = func(caller.Caller, *registry.Spec) (oci.Source, error) {
			return nil, &oci.Error{Class: oci.NoCredential, Message: "organisation acme has no account nope"}
		}
	})
	s.get("/v2/nginx/manifests/1").refuses(t, http.StatusForbidden, oci.CodeDenied, "organisation acme has no account nope")
}

// What the shared principal was refused is told to an organisation in its own name.
func TestNoAccountIsTheOrganisations(t *testing.T) {
	for organisation, want := range map[string]string{
		"acme": "organisation acme has no account for ghcr.io, and acme/app is not public or does not exist: add one to its credentials and pull again",
		"":     "acme/app of ghcr.io is not public, or does not exist, and no account for ghcr.io is configured for this caller: add one to credentials and pull again",
	} {
		s := newSite(t, func(o *Options) { o.Organisation = organisation })
		s.fake.fails["resolve"] = classify.NoCredential("", "ghcr.io", "acme/app")
		s.get("/v2/ghcr.io/acme/app/manifests/1").refuses(t, http.StatusForbidden, oci.CodeDenied, want)
	}
}

// "Connect one" is said only where nobody has an account.
func TestMessage_OfAccountsThatDoNotCoverTheRepository(t *testing.T) {
	const begin = "organisation acme: account "
	for name, c := range map[string]struct {
		accounts map[string][]string // by organisation; "" is this node
		want     string
	}{
		"nobody has one":     {nil, "organisation acme has no account for ghcr.io, and acme/app is not public or does not exist: add one to its credentials and pull again"},
		"one for others":     {map[string][]string{"acme": {"ci"}}, begin + `"ci" for ghcr.io does not cover acme/app, which is not public, or does not exist: add it to the account's repositories`},
		"several for others": {map[string][]string{"acme": {"ci", "web"}}, begin + `"ci, web" for ghcr.io does not cover`},
		"the node has one":   {map[string][]string{"": {"-"}}, "organisation acme has no account for ghcr.io, and acme/app is not public, or does not exist, and this node's account may not read it either: check the name"},
		"both have one":      {map[string][]string{"": {"-"}, "acme": {"ci"}}, begin + `"ci" for ghcr.io does not cover acme/app, which is not public, or does not exist, and this node's account may not read it either`},
		"another has one":    {map[string][]string{"globex": {"ci"}}, "organisation acme has no account for ghcr.io"},
	} {
		s := newSite(t, func(o *Options) {
			o.Organisation = "acme"
			o.Accounts = func(organisation string, r *registry.Spec) []string {
				if r.Name != "ghcr.io" {
					return nil
				}
				return c.accounts[organisation]
			}
		})
		s.fake.fails["resolve"] = classify.NoCredential("", "ghcr.io", "acme/app")
		entry := s.get("/v2/ghcr.io/acme/app/manifests/1").refuses(t, http.StatusForbidden, oci.CodeDenied, c.want)
		if one := strings.Contains(entry.Message, "add one to"); one && len(c.accounts["acme"])+len(c.accounts[""]) > 0 {
			t.Errorf("%s: %s", name, entry.Message)
		}
	}
}

func TestMessagesAreOneShortLine(t *testing.T) {
	s := newSite(t, nil)
	s.fake.fails["resolve"] = &oci.Error{Class: oci.Denied, Message: "a\r\nb\x00<" + strings.Repeat("x", 5000), Detail: "c\nd" + strings.Repeat("y", 5000)}
	a := s.get("/v2/nginx/manifests/1")
	entry := a.refuses(t, http.StatusForbidden, oci.CodeDenied, "a b <x")
	if len(entry.Message) > maxMessage+8 || len(entry.Detail) > maxDetail || !strings.HasPrefix(entry.Detail, "c d") {
		t.Errorf("%d and %d bytes", len(entry.Message), len(entry.Detail))
	}
	s.fake.fails["resolve"] = &oci.Error{Class: oci.Denied, Message: "m"}
	if a := s.get("/v2/nginx/manifests/1"); bytes.Contains(a.body, []byte("detail")) || !json.Valid(a.body) {
		t.Errorf("%s", a.body)
	}
}

func TestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newID()
		if len(id) != 5 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
	if len(seen) < 990 {
		t.Errorf("%d different ids of 1000", len(seen))
	}
}
