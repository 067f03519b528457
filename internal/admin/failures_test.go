package admin

import (
	"context"
	"net/http"
	"reflect"
	"testing"
	"time"
)

func TestFailures(t *testing.T) {
	all := Failures{Failures: []Failure{{Organisation: "acme", Registry: "ghcr.io", Class: "denied", Count: 3, Last: time.Unix(7, 0).UTC(), First: time.Unix(1, 0).UTC()}}}
	var asked FailuresRequest
	n := start(t, Options{Failures: func(_ context.Context, r FailuresRequest) (Failures, error) {
		asked = r
		return all, nil
	}})
	want := FailuresRequest{Organisation: "acme", Since: "90m"}
	if got, err := n.Failures(t.Context(), want); err != nil || !reflect.DeepEqual(got, all) || asked != want {
		t.Errorf("%+v, %v; asked for %+v", got, err, asked)
	}
	asked = FailuresRequest{}
	var got Failures
	if err := n.do(t.Context(), http.MethodGet, "failures?organisation=acme&since=90m", nil, &got); err != nil || asked != want {
		t.Errorf("by URL: %v; asked for %+v", err, asked)
	}
	if err := n.do(t.Context(), http.MethodGet, "failures?until=now", nil, &got); err == nil {
		t.Error("an unknown parameter")
	}
	if n.log.String() != "" {
		t.Errorf("to look is no order: %s", n.log)
	}
}

func TestParseSince(t *testing.T) {
	now := time.Unix(1_000_000, 0).UTC()
	for text, want := range map[string]time.Time{
		"": {}, "90m": now.Add(-90 * time.Minute), "0s": now, "1970-01-02T00:00:00Z": time.Unix(86400, 0).UTC(),
	} {
		if got, err := ParseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1m", "yesterday", "90"} {
		if _, err := ParseSince(text, now); err == nil {
			t.Errorf("%q is a time", text)
		}
	}
}

func TestImage(t *testing.T) {
	for want, f := range map[string]Failure{
		"":                       {},
		"ghcr.io/acme/app":       {Registry: "ghcr.io", Repository: "acme/app"},
		"acme/app:1":             {Repository: "acme/app", Reference: "1"},
		"ghcr.io/acme/app@md5:x": {Registry: "ghcr.io", Repository: "acme/app", Reference: "md5:x"},
	} {
		if got := f.Image(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
