package token

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
	"berth/upstream/dialect"
)

// pageWith is what stands between answers, whatever was asked.
func pageWith(status int) func(w http.ResponseWriter, r *http.Request, user, password string) {
	return func(w http.ResponseWriter, _ *http.Request, _, _ string) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, "<!DOCTYPE html><title>Sign in</title>")
	}
}

func isRiddle(err error) bool {
	e, ok := errors.AsType[*oci.Error](err)
	return ok && e.NotUnderstood
}

// A page of the token endpoint is neither yes nor no, whatever its status, but for a
// 401; it holds nothing against the credential, so that the next request is sent.
func TestPage_OfATokenEndpoint(t *testing.T) {
	for _, kind := range []string{dialect.DockerHub, dialect.GHCR, dialect.Quay} {
		for _, status := range []int{200, 302, 400, 403, 404, 418, 511} {
			for _, repo := range []string{"x", ""} { // "": as docker login asks
				t.Run(fmt.Sprint(kind, " ", status, " ", repo), func(t *testing.T) {
					f, c := newFakeRegistry(t, false), ocitest.NewClock()
					f.token = pageWith(status)
					a := f.authority(Options{Type: typeNamed(t, kind), Now: c.Now})
					cred := testAccount("acme", "ci", "bot", "pw")
					_, err := f.header(a, cred, repo)
					if !isRiddle(err) || oci.ClassOf(err) == oci.Unauthorized {
						t.Errorf("not a riddle: %v", err)
					}
					if refused := a.Refusal(cred); refused != nil {
						t.Errorf("held against the credential: %v", refused)
					}
					f.be(func() { f.token = nil })
					c.Advance(time.Minute) // a place that is in doubt is asked for again
					if h, err := f.header(a, cred, repo); err != nil || h == "" {
						t.Errorf("afterwards: %q, %v", h, err)
					}
				})
			}
		}
	}
}

// A page in the place of a challenge teaches nothing that lasts: once the registry
// answers, it is signed in to as it wants.
func TestPage_InPlaceOfAChallenge(t *testing.T) {
	statuses := []int{200, 401, 403, 404, 418, 511}
	for n := range 2 * len(statuses) {
		status, anonymous := statuses[n/2], n%2 == 1
		t.Run(fmt.Sprint(status, " ", anonymous), func(t *testing.T) {
			f, c := newFakeRegistry(t, false), ocitest.NewClock()
			registry, portal := f.Config.Handler, true
			f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				behind := true
				f.be(func() { behind = !portal })
				if behind {
					registry.ServeHTTP(w, r)
					return
				}
				pageWith(status)(w, r, "", "")
			})
			a := f.authority(Options{Now: c.Now})
			cred := testAccount("acme", "ci", "bot", "pw")
			first := cred
			if anonymous { // whoever has no account asks first, and gets along without a challenge
				first = nil
			}
			h, err := f.header(a, first, "x")
			if err != nil && !isRiddle(err) || h != "" {
				t.Errorf("%q, %v", h, err)
			}
			if refused := a.Refusal(cred); refused != nil {
				t.Errorf("held against the credential: %v", refused)
			}
			f.be(func() { portal = false })
			c.Advance(reprobe)
			if h, err := f.header(a, cred, "x"); err != nil || h != "Bearer bot-1" {
				t.Errorf("afterwards: %q, %v", h, err)
			}
		})
	}
}
