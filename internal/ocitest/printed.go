package ocitest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// NotPrinted fails the test where v shows secret in any of the ways in which programs print
// values.
func NotPrinted(t *testing.T, v any, secret string) {
	t.Helper()
	for _, form := range shownForms(v, secret) {
		t.Errorf("the secret shows as %q", form)
	}
}

// shownForms are those in which secret shows.
func shownForms(v any, secret string) (shown []string) {
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s", "%T", "%p", "%b", "%c", "%U"} {
		fmt.Fprintf(&out, verb, v)
	}
	fmt.Fprint(&out, v)
	fmt.Fprintln(&out, v)
	if b, err := json.Marshal(v); err == nil {
		out.Write(b)
	}
	if b, err := xml.Marshal(v); err == nil {
		out.Write(b)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
	bytesOf := strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]")
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), bytesOf} {
		if strings.Contains(out.String(), form) {
			shown = append(shown, form)
		}
	}
	return shown
}
