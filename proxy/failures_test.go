package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// keeping is a site that keeps failures by a clock of its own.
func keeping(t *testing.T, change func(*Options)) (*site, *Failures, *time.Time) {
	t.Helper()
	now := new(time.Unix(1_000_000, 0).UTC())
	f := NewFailures(func() time.Time { return *now })
	s := newSite(t, func(o *Options) {
		o.Organisation, o.Failures = "acme", f
		if change != nil {
			change(o)
		}
	})
	return s, f, now
}

func TestFailuresOfAPull(t *testing.T) {
	s, f, now := keeping(t, nil)
	s.fake.fails["resolve"] = &oci.Error{Class: oci.Denied, Message: "ghcr.io denied it"}
	begun := *now
	pull := func() answer {
		s.head("/v2/ghcr.io/acme/app/manifests/1", "User-Agent", "containerd/v2.1.0").wants(t, http.StatusForbidden)
		return s.get("/v2/ghcr.io/acme/app/manifests/1", "User-Agent", "containerd/v2.1.0").wants(t, http.StatusForbidden)
	}
	pull()
	*now = now.Add(time.Minute)
	last := pull()
	s.server.Close()
	all := f.All(time.Time{})
	want := Failure{
		Organisation: "acme", Registry: "ghcr.io", Repository: "acme/app", Reference: "1", Class: oci.Denied,
		Message: "organisation acme: ghcr.io denied it", RequestID: last.Header.Get("X-Request-Id"), Client: "containerd",
		Count: 2, First: begun, Last: *now,
	}
	if len(all) != 1 || all[0] != want {
		t.Errorf("%+v\nwant %+v", all, want)
	}
	if got := s.value("berth_pull_failures_total", "reason", "denied"); got != float64(want.Count) {
		t.Errorf("the metric says %v", got)
	}
	for _, none := range [][]Failure{f.Of("globex", begun), f.Of("", begun), f.All(now.Add(1))} {
		if len(none) != 0 {
			t.Errorf("%+v", none)
		}
	}
	if len(f.Of("acme", *now)) != 1 {
		t.Error("acme's failure is not acme's")
	}
	f.Keep(func(string) bool { return false })
	if left := f.All(begun); len(left) != 0 {
		t.Errorf("%+v stays of an organisation that is gone", left)
	}
}

// What is no pull, or was not tried as one, is no failure of one.
func TestFailuresOfNoPull(t *testing.T) {
	s, f, _ := keeping(t, nil)
	s.fake.fails["list"] = &oci.Error{Class: oci.Denied, Message: "no"}
	s.get("/v2/ghcr.io/acme/app/tags/list").wants(t, http.StatusForbidden)
	s.get("/v2/ghcr.io/acme/app/manifests/sha256:short").wants(t, http.StatusBadRequest)
	s.ask(http.MethodPost, "/v2/ghcr.io/acme/app/blobs/uploads/").wants(t, http.StatusMethodNotAllowed)
	s.server.Close()
	if all := f.All(time.Time{}); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

// Whoever did not prove who it is has its failures under nobody's name.
func TestFailuresOfAStranger(t *testing.T) {
	f := NewFailures(nil)
	s := tokenSite(t, func(o *Options) { o.Failures = f })
	s.get("/v2/ghcr.io/acme/app/manifests/1").wants(t, http.StatusUnauthorized) // the invitation
	if all := f.All(time.Time{}); len(all) != 0 {
		t.Errorf("an invitation is a failure: %+v", all)
	}
	s.get("/v2/ghcr.io/acme/app/manifests/1", basicHeader("acme", "wrong")...).wants(t, http.StatusUnauthorized)
	s.server.Close()
	all := f.Of("", time.Time{})
	if len(all) != 1 || all[0].Class != oci.Caller || all[0].Registry != "" || all[0].Repository != "ghcr.io/acme/app" {
		t.Errorf("%+v", all)
	}
	if len(f.Of("acme", time.Time{})) != 0 {
		t.Error("a stranger wrote into acme's list")
	}
}

// An organisation that fails without end takes nothing from the others, and the
// whole is bounded.
func TestFailuresAreBounded(t *testing.T) {
	f := NewFailures(nil)
	add := func(organisation string, i int) {
		what := failureKey{organisation: organisation, repository: fmt.Sprint("r", i)}
		f.add(what, Failure{Organisation: organisation})
	}
	add("quiet", 0)
	for i := range 3 * maxFailures {
		add("loud", i)
	}
	if n, kept := len(f.Of("loud", time.Time{})), len(f.Of("quiet", time.Time{})); n != maxShown || kept != 1 {
		t.Errorf("%d of the loud one and %d of the quiet one", n, kept)
	}
	for i := range 2 * maxFailures {
		add(fmt.Sprint("org", i%200), i)
	}
	if n := len(f.kept.All()); n != maxFailures {
		t.Errorf("%d failures are kept", n)
	}
	if len(f.Of("quiet", time.Time{})) != 1 {
		t.Error("the quiet one has lost its failure to the loud ones")
	}
}

// The newest comes first, and a message never spans lines.
func TestFailuresInOrder(t *testing.T) {
	s, f, now := keeping(t, nil)
	for i, tag := range []string{"b", "a", "c"} {
		*now = now.Add(time.Second)
		s.fake.fails["resolve"] = &oci.Error{Class: oci.NotFound, Message: fmt.Sprintf("no\nsuch %d", i)}
		s.get("/v2/ghcr.io/acme/app/manifests/"+tag).wants(t, http.StatusNotFound)
	}
	s.server.Close()
	order := ""
	for _, e := range f.All(time.Time{}) {
		order += e.Reference
		if strings.Contains(e.Message, "\n") {
			t.Errorf("message %q", e.Message)
		}
	}
	if order != "cab" {
		t.Errorf("order %s", order)
	}
}
