package policy

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// What an image lists is read and noted once a day, and not by each pull: an image with
// very many layers would else cost everybody's processors.
func TestPolicy_ImageIsReadOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	w := newWorld(t, path)
	i := w.image('a', 10)
	s := w.source(&Rules{MaxImageSize: 1000})
	get := func() (read bool) {
		w.clock.Advance(time.Second)
		if _, err := s.Open(t.Context(), oci.Object{Repo: repo, Kind: oci.Manifest, Digest: i.digest}, oci.Range{}); err != nil {
			t.Fatal(err)
		}
		return s.(*source).note(repo, oci.Manifest, i.digest).Listed.Equal(w.clock.Now())
	}
	step := func(what string, want bool) {
		t.Helper()
		if read := get(); read != want {
			t.Errorf("%s: read %v, want %v", what, read, want)
		}
		for _, b := range i.blobs {
			if _, err := s.Stat(t.Context(), oci.Object{Repo: repo, Kind: oci.Blob, Digest: b}); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	step("at first", true)
	step("once more", false)
	w.reopen(path)
	s = w.source(&Rules{MaxImageSize: 1000})
	step("after a restart", false)
	w.clock.Advance(25 * time.Hour)
	step("a day later", true)
	s = w.source(&Rules{MaxImageSize: 5})
	if _, err := s.Open(t.Context(), oci.Object{Repo: repo, Kind: oci.Manifest, Digest: i.digest}, oci.Range{}); oci.ClassOf(err) != oci.Policy {
		t.Errorf("under a narrower rule: %v", err)
	}
	s = w.source(&Rules{MaxImageSize: 1000})
	for _, b := range i.blobs {
		ours := s.(*source)
		ours.change(repo, oci.Blob, b, func(n *note) { n.In = nil })
		if _, err := s.Stat(t.Context(), oci.Object{Repo: repo, Kind: oci.Blob, Digest: b}); oci.ClassOf(err) != oci.Policy {
			t.Errorf("a blob whose note is lost: %v", err)
		}
		w.clock.Advance(2 * time.Minute)
		step("after a loss", true)
		step("and then", false)
	}
}

// What lists more than images do is not judged, and so not pulled, where tags or sizes decide.
func TestPolicy_ImageListsTooMuch(t *testing.T) {
	w := newWorld(t, filepath.Join(t.TempDir(), "facts.db"))
	layers := make([]string, maxListed+1)
	for i := range layers {
		layers[i] = fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1}`, oci.DigestOf(fmt.Append(nil, i)))
	}
	for n, refused := range map[int]bool{maxListed: true, maxListed - 1: false} { // and a config
		d := w.put(oci.Manifest, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1},"layers":[%s]}`,
			oci.MediaTypeManifest, oci.DigestOf(nil), strings.Join(layers[:n], ",")))
		w.tags[fmt.Sprint(n)] = d
		for what, rules := range map[string]*Rules{
			"max_image_size": {MaxImageSize: 1 << 20},
			"deny":           {Deny: line(t, 3, "ghcr.io/acme/app:old")},
		} {
			s := w.source(rules)
			_, err := s.Resolve(t.Context(), repo, fmt.Sprint(n))
			if err == nil {
				_, err = s.Open(t.Context(), oci.Object{Repo: repo, Kind: oci.Manifest, Digest: d}, oci.Range{})
			}
			if (err != nil) != refused || err != nil && (oci.ClassOf(err) != oci.Policy || !strings.Contains(err.Error(), "policy."+what) || !strings.Contains(err.Error(), "at most 1000")) {
				t.Errorf("%s, %d layers: %v", what, n, err)
			}
		}
	}
}
