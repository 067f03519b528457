package ocitest

import (
	"strings"
	"testing"

	"berth/oci"
)

// WantClass fails the test unless err is an *oci.Error of class.
func WantClass(t testing.TB, err error, class oci.Class) {
	t.Helper()
	_ = AsClass(t, err, class)
}

// AsClass is err as an *oci.Error, or an empty one. It fails the test unless err is of
// class, with a message of one line.
func AsClass(t testing.TB, err error, class oci.Class) *oci.Error {
	t.Helper()
	e, ok := err.(*oci.Error) //nolint:errorlint // exactly that type is promised
	if !ok {
		t.Errorf("error %v (%T), want an *oci.Error of class %s", err, err, class)
		return &oci.Error{}
	}
	if e.Class != class {
		t.Errorf("class %s, want %s: %v", e.Class, class, err)
	}
	if e.Message == "" || strings.ContainsAny(e.Message, "\n\r") {
		t.Errorf("message %q is empty or has several lines", e.Message)
	}
	return e
}
