package oci_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"testing"
	"time"

	"berth/oci"
)

// The table of failure classes as clients and dashboards know it.
func TestClasses(t *testing.T) {
	type row struct {
		owner         string
		status        int
		code          oci.Code
		refuses       bool
		indeterminate bool
	}
	want := map[string]row{
		"unauthorized":   {"tenant", 403, oci.CodeDenied, true, false},
		"denied":         {"tenant", 403, oci.CodeDenied, true, false},
		"no_credential":  {"tenant", 403, oci.CodeDenied, true, false},
		"not_found":      {"tenant", 404, oci.CodeManifestUnknown, false, false},
		"wrong_platform": {"tenant", 200, "", false, false},
		"rate_limited":   {"network", 429, oci.CodeTooManyRequests, false, true},
		"unreachable":    {"network", 503, oci.CodeUnknown, false, true},
		"timeout":        {"network", 503, oci.CodeUnknown, false, true},
		"upstream_error": {"network", 503, oci.CodeUnknown, false, true},
		"corrupt":        {"network", 503, oci.CodeUnknown, false, false},
		"disk":           {"operator", 503, oci.CodeUnknown, false, false},
		"caller":         {"operator", 401, oci.CodeUnauthorized, false, false},
		"policy":         {"operator", 403, oci.CodeDenied, false, false},
		"client_gone":    {"-", 499, oci.CodeUnknown, false, false},
	}
	seen := map[string]bool{}
	for _, c := range oci.Classes() {
		got := row{c.Owner(), c.Status(), c.Code(), c.Refuses(), c.Indeterminate()}
		if w, ok := want[c.String()]; !ok || got != w {
			t.Errorf("%s: %+v, want %+v", c, got, w)
		}
		if seen[c.String()] || !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(c.String()) {
			t.Errorf("class name %q is taken or no label", c)
		}
		seen[c.String()] = true
	}
	if len(seen) != len(want) {
		t.Errorf("%d classes, want %d", len(seen), len(want))
	}
	if c := oci.Unclassified; c.String() != "upstream_error" || c.Status() != http.StatusServiceUnavailable || !c.Indeterminate() || c.Refuses() {
		t.Errorf("the zero Class is %s %d", c, c.Status())
	}
}

func TestErrorOverridesItsClass(t *testing.T) {
	e := &oci.Error{Class: oci.NotFound, Message: "m"}
	if e.HTTPStatus() != 404 || e.WireCode() != oci.CodeManifestUnknown || e.Error() != "m" || e.Unwrap() != nil {
		t.Errorf("%d %s %q %v", e.HTTPStatus(), e.WireCode(), e.Error(), e.Unwrap())
	}
	e = &oci.Error{Class: oci.NotFound, Status: 410, Code: oci.CodeNameUnknown, Message: "m", Err: io.ErrUnexpectedEOF}
	if e.HTTPStatus() != 410 || e.WireCode() != oci.CodeNameUnknown || e.Error() != "m: unexpected EOF" || !errors.Is(e, io.ErrUnexpectedEOF) {
		t.Errorf("%d %s %q", e.HTTPStatus(), e.WireCode(), e.Error())
	}
}

func TestAsError(t *testing.T) {
	if oci.AsError(nil) != nil || oci.ClassOf(nil) != oci.Unclassified {
		t.Error("nil is an error")
	}
	own := &oci.Error{Class: oci.Denied, Message: "own", Err: context.Canceled}
	if got := oci.AsError(fmt.Errorf("opening: %w", own)); got != own {
		t.Errorf("a wrapped Error became %v", got)
	}
	late, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	for _, c := range []struct {
		err  error
		want oci.Class
	}{
		{context.Canceled, oci.ClientGone},
		{fmt.Errorf("reading: %w", context.Canceled), oci.ClientGone},
		{late.Err(), oci.Timeout},
		{fmt.Errorf("reading: %w", context.DeadlineExceeded), oci.Timeout},
		{io.ErrUnexpectedEOF, oci.UpstreamError},
		{errors.New("secret"), oci.UpstreamError},
	} {
		e := oci.AsError(c.err)
		if e.Class != c.want || oci.ClassOf(c.err) != c.want {
			t.Errorf("%v is %s, want %s", c.err, e.Class, c.want)
		}
		// What goes to a client says nothing of the cause; the log has it.
		if e.Message == "" || e.Message == c.err.Error() || !errors.Is(e, c.err) {
			t.Errorf("%v: message %q, cause %v", c.err, e.Message, e.Err)
		}
	}
}
