package policy

import (
	"io"
	"strings"
	"testing"

	"berth/oci"
)

// TestPolicy_OneVerdictOnEveryRoute: each rule, asked in each order. "first" are the
// routes that are asked before any manifest was.
func TestPolicy_OneVerdictOnEveryRoute(t *testing.T) {
	const yes, no = "yes", "no"
	everything := map[string]string{}
	for _, r := range routes {
		everything[r] = no
	}
	none := func(but ...string) map[string]string {
		m := map[string]string{}
		for _, r := range routes {
			if m[r] = yes; contains(but, r) {
				m[r] = no
			}
		}
		return m
	}
	for name, tc := range map[string]struct {
		rules *Rules
		// first: nothing was pulled yet; then: the tag was asked for, or would have been.
		first, then map[string]string
		rule        string
	}{
		"deny":            {&Rules{Deny: line(t, 3, "ghcr.io/acme/**")}, everything, everything, "policy.deny ghcr.io/acme/** (main.yaml:3)"},
		"not in allow":    {&Rules{Allow: line(t, 3, "docker.io/**"), AllowAt: Place{"main.yaml", 2}}, everything, everything, "policy.allow (main.yaml:2)"},
		"in allow":        {&Rules{Allow: line(t, 3, "docker.io/**", "ghcr.io/acme/*")}, none(), none(), ""},
		"denied all same": {&Rules{Allow: line(t, 3, "ghcr.io/acme/*"), Deny: line(t, 7, "**")}, everything, everything, "policy.deny ** (main.yaml:7)"},
		"other tag denied": {
			&Rules{Deny: line(t, 3, "ghcr.io/acme/app:2")},
			none("HEAD digest", "GET digest", "HEAD blob", "GET blob", "range"), none(), "",
		},
		"tag denied": {
			&Rules{Deny: line(t, 3, "ghcr.io/acme/app:1*")},
			none("HEAD tag", "GET tag", "HEAD digest", "GET digest", "HEAD blob", "GET blob", "range"),
			none("HEAD tag", "GET tag", "HEAD digest", "GET digest", "HEAD blob", "GET blob", "range"), "policy.deny ghcr.io/acme/app:1* (main.yaml:3)",
		},
		"tag allowed": {
			&Rules{Allow: line(t, 3, "ghcr.io/acme/app:1*")},
			none("HEAD digest", "GET digest", "HEAD blob", "GET blob", "range"), none(), "",
		},
		"digest only": {&Rules{DigestOnly: true, DigestOnlyAt: Place{"main.yaml", 5}}, none("HEAD tag", "GET tag"), none("HEAD tag", "GET tag"), "policy.digest_only (main.yaml:5)"},
		"too large": {
			&Rules{MaxImageSize: 100, MaxImageSizeAt: Place{"main.yaml", 5}},
			none("HEAD tag", "GET tag", "HEAD digest", "GET digest", "HEAD blob", "GET blob", "range"),
			none("HEAD tag", "GET tag", "HEAD digest", "GET digest", "HEAD blob", "GET blob", "range"), "policy.max_image_size 100 B (main.yaml:5)",
		},
		"small enough": {&Rules{MaxImageSize: 1 << 20}, none("HEAD blob", "GET blob", "range"), none(), ""},
		"cooldown":     {&Rules{Cooldown: 3600e9}, none(), none(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, first := range routes {
				w := newWorld(t, "")
				image := w.image('a', 1000)
				w.tags["1"] = image.digest
				s := w.source(tc.rules)
				ask := func(route string) error {
					r := request{route: route, tag: "1", digest: image.digest}
					if strings.HasSuffix(route, "blob") || route == "range" {
						r.digest = image.blobs[0]
					}
					return r.send(t.Context(), s)
				}
				if got := verdict(ask(first)); got != tc.first[first] {
					t.Errorf("%s, before anything else: %s, want %s", first, got, tc.first[first])
				}
				_ = ask("GET tag") // as far as it may be; where only digests may, by digest
				_ = ask("GET digest")
				for _, route := range routes {
					err := ask(route)
					if got := verdict(err); got != tc.then[route] {
						t.Errorf("%s, after %s and the manifest: %s, want %s", route, first, got, tc.then[route])
					}
					if err == nil || tc.rule == "" {
						continue
					}
					e := oci.AsError(err)
					if e.Rule != tc.rule || !strings.HasPrefix(e.Message, "organisation acme: ghcr.io/acme/app") || !strings.Contains(e.Message, tc.rule) {
						t.Errorf("%s: the rule is %q, the message %q; want %q", route, e.Rule, e.Message, tc.rule)
					}
				}
				if w.open != 0 {
					t.Errorf("%d bodies were left open", w.open)
				}
			}
		})
	}
}

// Without a rule nothing stands in between.
func TestPolicy_WithoutRulesIsTheSourceItself(t *testing.T) {
	w := newWorld(t, "")
	if s := w.source(&Rules{}, &Rules{}); s != oci.Source(w.shelf) {
		t.Errorf("there is a %T around it", s)
	}
}

// A blob is known by the manifests that this organisation was let have, and by no
// other's.
func TestPolicy_NobodyProfitsFromAnothersPull(t *testing.T) {
	w := newWorld(t, "")
	image := w.image('a', 10)
	w.tags["1"] = image.digest
	only := &Rules{Allow: line(t, 1, "ghcr.io/acme/app:1")}
	acme, globex := w.source(only), w.sourceOf("globex", only)
	if err := (request{route: "GET tag", tag: "1"}).send(t.Context(), acme); err != nil {
		t.Fatal(err)
	}
	blob := request{route: "GET blob", digest: image.blobs[0]}
	if got := verdict(blob.send(t.Context(), acme)); got != "yes" {
		t.Errorf("acme: %s", got)
	}
	asked := w.asked
	if got := verdict(blob.send(t.Context(), globex)); got != "no" || w.asked != asked {
		t.Errorf("globex: %s, and %d questions", got, w.asked-asked)
	}
}

// An index brings its images along, but not past their own size.
func TestPolicy_IndexBringsItsImages(t *testing.T) {
	w := newWorld(t, "")
	small, large, other := w.image('s', 10), w.image('l', 10_000), w.image('o', 20)
	index := w.index(small, large)
	w.tags["1"] = index.digest
	s := w.source(&Rules{Allow: line(t, 1, "ghcr.io/acme/app:1"), MaxImageSize: 5000})
	ask := func(route string, d oci.Digest) string {
		return verdict((request{route: route, tag: "1", digest: d}).send(t.Context(), s))
	}
	if got := ask("GET digest", small.digest); got != "no" {
		t.Errorf("an image before its index: %s", got)
	}
	if got := ask("GET tag", ""); got != "yes" {
		t.Fatalf("the index: %s", got)
	}
	for _, c := range []struct {
		route string
		d     oci.Digest
		want  string
	}{
		{"GET blob", small.blobs[0], "no"},
		{"HEAD digest", small.digest, "yes"},
		{"GET digest", small.digest, "yes"},
		{"GET blob", small.blobs[0], "yes"},
		{"HEAD digest", large.digest, "no"},
		{"GET digest", large.digest, "no"},
		{"GET blob", large.blobs[0], "no"},
		{"GET digest", other.digest, "no"},
		{"GET blob", small.digest, "no"}, // a manifest is no blob of the image
	} {
		if got := ask(c.route, c.d); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.route, c.d, got, c.want)
		}
	}
}

// A manifest may say that its layer is small. What comes counts.
func TestPolicy_SizeOfTheBytesThemselves(t *testing.T) {
	w := newWorld(t, "")
	layer := w.put(oci.Blob, make([]byte, 1000))
	text := `{"schemaVersion":2,"mediaType":"` + oci.MediaTypeManifest + `","layers":[{"digest":"` + string(layer) + `","size":1}]}`
	w.tags["1"] = w.put(oci.Manifest, []byte(text))
	huge := w.put(oci.Manifest, []byte(strings.Replace(text, `"size":1}`, `"size":9223372036854775807},{"digest":"`+string(layer)+`","size":2}`, 1)))
	negative := w.put(oci.Manifest, []byte(strings.Replace(text, `"size":1}`, `"size":-5}`, 1)))
	s := w.source(&Rules{MaxImageSize: 500})
	for _, c := range []struct {
		r    request
		want string
	}{
		{request{route: "GET tag", tag: "1"}, "yes"},
		{request{route: "GET blob", digest: layer}, "no"},
		{request{route: "HEAD blob", digest: layer}, "no"},
		{request{route: "range", digest: layer}, "no"},
		{request{route: "GET digest", digest: huge}, "no"},
		{request{route: "GET digest", digest: negative}, "no"},
	} {
		if got := verdict(c.r.send(t.Context(), s)); got != c.want {
			t.Errorf("%v: %s, want %s", c.r, got, c.want)
		}
	}
	w.chunked = true
	c, err := s.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: layer}, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, c.Body); n > 500 || oci.ClassOf(err) != oci.Policy {
		t.Errorf("of unknown size: %d bytes, %v", n, err)
	}
	_ = c.Body.Close() // it was only read from
	if w.open != 0 {
		t.Errorf("%d bodies were left open", w.open)
	}
}

// An organisation's rules narrow the main file's, whatever they say.
func TestPolicy_OwnRulesOnlyNarrow(t *testing.T) {
	w := newWorld(t, "")
	w.tags["1"], w.tags["2"] = w.image('a', 10).digest, w.image('b', 10).digest
	whole := &Rules{Deny: line(t, 1, "ghcr.io/acme/app:2"), MaxImageSize: 1 << 20, Cooldown: 10}
	own := &Rules{Allow: line(t, 1, "**"), MaxImageSize: 1 << 30, Deny: line(t, 9, "ghcr.io/acme/app:1")}
	for tag, want := range map[string]string{"1": "no", "2": "no"} {
		if got := verdict((request{route: "GET tag", tag: tag}).send(t.Context(), w.source(whole, own))); got != want {
			t.Errorf("tag %s: %s, want %s", tag, got, want)
		}
	}
	if got := verdict((request{route: "GET tag", tag: "1"}).send(t.Context(), w.source(whole))); got != "yes" {
		t.Errorf("tag 1 by the main file: %s", got)
	}
}

// What was let through before a change of the rules is judged by those in force.
func TestPolicy_ChangedRulesCountAtOnce(t *testing.T) {
	w := newWorld(t, "")
	image := w.image('a', 100)
	w.tags["1"] = image.digest
	before := w.source(&Rules{MaxImageSize: 1000, Allow: line(t, 1, "ghcr.io/acme/app:1")})
	if err := (request{route: "GET tag", tag: "1"}).send(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	blob := request{route: "GET blob", digest: image.blobs[1]}
	for _, c := range []struct {
		rules *Rules
		want  string
	}{
		{&Rules{MaxImageSize: 1000}, "yes"},
		{&Rules{MaxImageSize: 50}, "no"},
		{&Rules{Deny: line(t, 1, "**:1")}, "no"},
		{&Rules{Deny: line(t, 1, "**:2")}, "yes"},
		{&Rules{Allow: line(t, 1, "ghcr.io/**:2")}, "no"},
	} {
		if got := verdict(blob.send(t.Context(), w.source(c.rules))); got != c.want {
			t.Errorf("%+v: %s, want %s", c.rules, got, c.want)
		}
	}
}
