package oci_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"berth/oci"
)

func TestOneLine(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 10, ""},
		{"plain", 10, "plain"},
		{"  a \t\r\n b  ", 10, "a b"},
		{"a\x00b\x1b[31mc\x7fd", 20, "a b [31mc d"},
		{"a\u0085b\u2028c\u2029d\u009be", 30, "a b c d e"},
		{"\u202egnp.exe", 30, "gnp.exe"},
		{"a\x9b31mb", 30, "a\ufffd31mb"},
		{"abcdef", 3, "abc"},
		{"aäöü", 4, "aä"},
		{"<b>&\"", 10, `<b>&"`},
		{"日本語", 6, "日本"},
	} {
		if got := oci.OneLine(c.in, c.limit); got != c.want {
			t.Errorf("OneLine(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\nb\x9b", 5)
	f.Add("\u2066\xff\xfe", 0)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(0, min(limit, 1000))
		got := oci.OneLine(s, limit)
		if len(got) > limit || !utf8.ValidString(got) {
			t.Fatalf("OneLine(%q, %d) = %q", s, limit, got)
		}
		if strings.ContainsFunc(got, func(r rune) bool {
			return r != ' ' && unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
		}) {
			t.Fatalf("OneLine(%q, %d) = %q", s, limit, got)
		}
	})
}
