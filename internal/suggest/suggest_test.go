package suggest

import (
	"strings"
	"testing"
)

func TestSuggest(t *testing.T) {
	words := []string{"address", "allow_remote", "tls", "names", "docker.io", "ghcr.io"}
	for in, want := range map[string]string{
		"ddress": "address", "allowRemote": "allow_remote", "allow-remote": "allow_remote", "tsl": "tls", "name": "names",
		"docker.oi": "docker.io", "ghrc.io": "ghcr.io", "gchr.io": "ghcr.io",
		"colour": "", "": "", "x": "", "example.com": "", strings.Repeat("a", 100): "",
	} {
		question := ""
		if want != "" {
			question = `: did you mean "` + want + `"?`
		}
		if got := Nearest(in, words); got != want || Question(in, words) != question {
			t.Errorf("%q: %q, %q, want %q", in, got, Question(in, words), want)
		}
	}
}
