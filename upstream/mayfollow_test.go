package upstream

import (
	"net/url"
	"testing"

	"berth/auth/token"
)

// The cells where net/http would send credentials along and we must not are the
// sub-domains, the other ports and http.
func TestRedirects(t *testing.T) {
	const https, plain = "https://registry.example/v2/x", "http://registry.example/v2/x"
	for _, tc := range []struct {
		from, to     string
		follow, same bool
	}{
		{https, "https://registry.example/elsewhere", true, true},
		{https, "https://registry.example:443/v2/x", true, true},
		{https, "https://REGISTRY.example/v2/x", true, true},
		{https, "https://registry.example:8443/v2/x", true, false},
		{https, "https://registry.example:80/v2/x", true, false},
		{https, "https://cdn.registry.example/x", true, false},
		{https, "https://example/x", true, false},
		{https, "https://registry.example.evil.test/x", true, false},
		{https, "https://registry.example./x", true, false},
		{https, "https://evil.test/x?registry.example", true, false},
		{https, "https://[::1]/x", true, false},
		{https, "https://127.0.0.1/x", true, false},
		{https, "https://rеgistry.example/x", true, false}, // a Cyrillic letter
		{https, "http://registry.example/v2/x", false, false},
		{https, "http://registry.example:443/v2/x", false, false},
		{https, "http://cdn.registry.example/x", false, false},
		{https, "https://user@registry.example/x", false, false},
		{https, "https://user:pw@registry.example/x", false, false},
		{https, "https://registry.example@evil.test/x", false, false},
		{https, "https://@registry.example/x", false, false},
		{https, "ftp://registry.example/x", false, false},
		{https, "file:///etc/passwd", false, false},
		{https, "data:text/plain,x", false, false},
		{https, "https:registry.example/x", false, false},
		{https, "https:///x", false, false},
		{https, "//registry.example/x", false, false}, // not made absolute
		{https, "/v2/x", false, false},
		{https, "https://:443/x", false, false},
		{plain, "http://registry.example/other", true, true},
		{plain, "http://registry.example:80/other", true, true},
		{plain, "http://registry.example:5000/other", true, false},
		{plain, "http://other.example/x", true, false},
		{plain, "https://registry.example/v2/x", true, false},
		{plain, "https://registry.example:80/v2/x", true, false},
		{"https://[2001:db8::1]:5000/x", "https://[2001:DB8::1]:5000/y", true, true},
		{"https://[2001:db8::1]/x", "https://[2001:db8::1]:443/y", true, true},
		{"https://[2001:db8::1]/x", "https://[2001:db8:0::1]/y", true, false}, // another spelling is another host
	} {
		from, to := mustURL(t, tc.from), mustURL(t, tc.to)
		if err := mayLead(from, to); (err == nil) != tc.follow {
			t.Errorf("%s -> %s: follow %v (%v), want %v", tc.from, tc.to, err == nil, err, tc.follow)
		}
		if got := token.SameOrigin(from, to); got != tc.same {
			t.Errorf("%s -> %s: same origin %v, want %v", tc.from, tc.to, got, tc.same)
		}
		if token.SameOrigin(from, to) != token.SameOrigin(to, from) {
			t.Errorf("%s, %s: same origin only one way", tc.from, tc.to)
		}
	}
}

func FuzzRedirect(f *testing.F) {
	for _, s := range []string{"https://registry.example/", "http://x", "https://a@b", "https://registry.example:443", "//x", "https:x", "https://[::1%25eth0]/"} {
		f.Add(s)
	}
	from := &url.URL{Scheme: "https", Host: "registry.example"}
	f.Fuzz(func(t *testing.T, location string) {
		to, err := from.Parse(location)
		if err != nil {
			return
		}
		if mayLead(from, to) == nil && (to.Scheme != "https" || to.User != nil || to.Hostname() == "") {
			t.Fatalf("%q may be followed", location)
		}
		if token.SameOrigin(from, to) && (to.Scheme != "https" || to.Hostname() == "" || to.User != nil || to.Port() != "" && to.Port() != "443") {
			t.Fatalf("%q gets credentials", location)
		}
	})
}
