package upstream

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/limit"
	"berth/oci"
)

// A HEAD that was refused is followed by a GET, for the text. Nobody keeps that no away by
// using up a limit of the registry's or of ours in between, or by making the GET fail.
func TestManifest_NoIsHeardWithoutItsText(t *testing.T) {
	fails := func(err error) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	says := func(status int, text string) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return replyWith(status, text), nil }
	}
	for name, c := range map[string]struct {
		rate limit.Rate
		get  func(*http.Request) (*http.Response, error)
		want oci.Class
	}{
		"the text":         {get: says(403, `{"errors":[{"code":"DENIED","message":"no"}]}`), want: oci.Denied},
		"our rate":         {rate: limit.Rate{PerSecond: .1, Burst: 1}, get: says(403, ""), want: oci.Denied},
		"its pull limit":   {get: says(429, pullLimitText), want: oci.Denied},
		"no connection":    {get: fails(errNoHeader), want: oci.Denied},
		"its trouble":      {get: says(503, ""), want: oci.Denied},
		"a page":           {get: says(403, "<html>sign in</html>"), want: oci.Denied}, // not understood
		"not there at all": {get: says(404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`), want: oci.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry(t, Options{
					Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Before: withoutAuth, Hosts: &limit.Hosts{Rate: c.rate},
				})
				rt := roundTripper(func(req *http.Request) (*http.Response, error) {
					if req.Method == http.MethodHead {
						return replyWith(403, ""), nil
					}
					return c.get(req)
				})
				r.meta, r.blob = rt, rt
				for what, ask := range map[string]func(oci.Source) error{
					"tag": func(s oci.Source) error { _, err := s.Resolve(t.Context(), "acme/app", "1"); return err },
					"digest": func(s oci.Source) error {
						_, err := s.Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: anObject.Digest})
						return err
					},
				} {
					if err := ask(r.As(as("acme", "a", "1"))); oci.ClassOf(err) != c.want || oci.AsError(err).NotUnderstood != (name == "a page") {
						t.Errorf("by %s: %v", what, err)
					}
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

// A manifest that came and is of no use has cost a pull all the same; one that did not
// come has not.
func TestManifest_WhatTheRegistryCounts(t *testing.T) {
	twice := `{"schemaVersion":2,"schemaVersion":2,"layers":[]}`
	for name, c := range map[string]struct {
		reply   *http.Response
		counted bool
	}{
		"a key twice":  {replyWith(200, twice, "Content-Type", "application/vnd.oci.image.manifest.v1+json"), true},
		"wrong bytes":  {replyWith(200, "{}", "Content-Type", "application/vnd.oci.image.manifest.v1+json"), true},
		"a page":       {replyWith(200, "<html>", "Content-Type", "text/html"), true},
		"a refusal":    {replyWith(403, ""), false},
		"a limit":      {replyWith(429, pullLimitText), false},
		"not there":    {replyWith(404, ""), false},
		"no such luck": {replyWith(500, ""), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := inMemoryRegistry(t, func(*http.Request) (*http.Response, error) { again := *c.reply; return &again, nil })
			_, err := r.As(Identity{}).Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: oci.DigestOf([]byte(twice))}, oci.Range{})
			if err == nil || oci.AsError(err).Counted != c.counted {
				t.Errorf("%s: %v is counted: %v", name, err, !c.counted)
			}
		})
	}
}
