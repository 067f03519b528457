package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"berth/internal/ocitest"
	"berth/oci"
)

// model is what a policy lets through, written without looking at how it does: with
// everything that was ever told about an image, and the rules as sets.
type model struct {
	allow, deny []string // tags, or "" for the repository; nil allow: all
	most        int64
	digestOnly  bool
	listed      map[oci.Digest][]oci.Digest // by child: manifests that were given
	meant       map[oci.Digest]map[string]bool
	sizes       map[oci.Digest]int64
	isIndex     map[oci.Digest]bool
}

func (m *model) repository() bool {
	return !slices.Contains(m.deny, "") // every pattern of the test is about this repository
}

func (m *model) name(tag string) bool {
	ok := m.allow == nil
	for _, a := range m.allow {
		ok = ok || a == "" || a == tag
	}
	for _, d := range m.deny {
		ok = ok && d != "" && d != tag
	}
	return ok
}

func (m *model) tagsDecide() bool {
	some, whole := false, false
	for _, a := range m.allow {
		some, whole = some || a != "", whole || a == ""
	}
	if some && !whole {
		return true
	}
	for _, d := range m.deny {
		if d != "" {
			return true
		}
	}
	return false
}

func (m *model) manifest(d oci.Digest) bool {
	if m.most > 0 && m.sizes[d] > m.most {
		return false
	}
	if !m.tagsDecide() {
		return true
	}
	for _, one := range append([]oci.Digest{d}, m.listed[d]...) {
		if one != d && !m.isIndex[one] {
			continue
		}
		for tag := range m.meant[one] {
			if m.name(tag) {
				return true
			}
		}
	}
	return false
}

func (m *model) blob(d oci.Digest, size int64) bool {
	if m.most > 0 && size > m.most {
		return false
	}
	if !m.tagsDecide() && m.most == 0 {
		return true
	}
	return slices.ContainsFunc(m.listed[d], m.manifest)
}

// TestPolicy_IsItsModel: random rules and requests, a reload and a restart among them.
func TestPolicy_IsItsModel(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		path := fmt.Sprintf("%s/%d.db", dir, n)
		w := newWorld(t, path)
		images := []made{w.image('a', 10), w.image('b', 400), w.image('c', 3000)}
		images = append(images, w.index(images[0], images[2]), w.index(images[1]))
		children := map[oci.Digest][]oci.Digest{}
		m := &model{listed: map[oci.Digest][]oci.Digest{}, meant: map[oci.Digest]map[string]bool{}, sizes: map[oci.Digest]int64{}, isIndex: map[oci.Digest]bool{images[3].digest: true, images[4].digest: true}}
		for i, image := range images {
			m.sizes[image.digest] = image.size
			w.tags[fmt.Sprint(i)] = image.digest
			children[image.digest] = image.blobs
		}
		children[images[3].digest] = []oci.Digest{images[0].digest, images[2].digest}
		children[images[4].digest] = []oci.Digest{images[1].digest}

		var s oci.Source
		var rules *Rules
		reload := func(r *rapid.T) {
			tags := rapid.SliceOfN(rapid.SampledFrom([]string{"", "0", "1", "2", "3", "4", "5"}), 0, 3)
			var allow []string
			deny := tags.Filter(func(all []string) bool { return len(all) < 2 || !contains(all, "") }).Draw(r, "deny")
			if rapid.Bool().Draw(r, "allows") {
				allow = tags.Filter(func(all []string) bool { return len(all) > 0 }).Draw(r, "allow")
			}
			most := rapid.SampledFrom([]int64{0, 0, 300, 1000}).Draw(r, "most")
			digestOnly := rapid.IntRange(0, 5).Draw(r, "digest_only") == 0
			m.allow, m.deny, m.most, m.digestOnly = allow, deny, most, digestOnly // a draw may end the step
			of := func(tags []string) (all []Pattern) {
				for _, tag := range tags {
					all = append(all, line(t, 1, strings.TrimSuffix("ghcr.io/acme/app:"+tag, ":"))...)
				}
				return all
			}
			rules = &Rules{Allow: of(m.allow), Deny: of(m.deny), MaxImageSize: m.most, DigestOnly: m.digestOnly}
			s = w.source(rules)
		}
		reload(r)
		given := func(d oci.Digest) {
			for _, child := range children[d] {
				m.listed[child] = append(m.listed[child], d)
			}
		}
		var blobs []oci.Digest
		for _, image := range images {
			blobs = append(blobs, image.blobs...)
		}
		r.Repeat(map[string]func(*rapid.T){
			"reload":  reload,
			"restart": func(*rapid.T) { w.reopen(path); s = w.source(rules) },
			"tag": func(r *rapid.T) {
				q := request{route: rapid.SampledFrom([]string{"HEAD tag", "GET tag"}).Draw(r, "route"), tag: fmt.Sprint(rapid.IntRange(0, 5).Draw(r, "tag"))}
				d, there := w.tags[q.tag]
				want := "no"
				if m.repository() && m.name(q.tag) && !m.digestOnly {
					want = "missing"
					if there {
						want = "no"
						if m.most == 0 || m.sizes[d] <= m.most {
							want = "yes"
						}
						if m.most > 0 || m.tagsDecide() {
							if m.meant[d] == nil {
								m.meant[d] = map[string]bool{}
							}
							m.meant[d][q.tag] = true
						}
					}
				}
				got := verdict(q.send(r.Context(), s))
				if got != want {
					r.Fatalf("%s %s: %s, want %s", q.route, q.tag, got, want)
				}
				// A HEAD may have read the manifest, and need not: what it notes then is never
				// more than a GET would have.
				if q.route == "GET tag" && got == "yes" && (m.most > 0 || m.tagsDecide()) {
					given(d)
				} else if got == "yes" && m.most > 0 {
					_ = (request{route: "GET digest", digest: d}).send(r.Context(), s)
					given(d)
				}
			},
			"manifest": func(r *rapid.T) {
				q := request{route: rapid.SampledFrom([]string{"HEAD digest", "GET digest"}).Draw(r, "route"), digest: rapid.SampledFrom(images).Draw(r, "image").digest}
				want := "no"
				if m.repository() && m.manifest(q.digest) {
					want = "yes"
				}
				if got := verdict(q.send(r.Context(), s)); got != want {
					r.Fatalf("%s %s: %s, want %s", q.route, q.digest, got, want)
				}
				if want == "yes" && (m.most > 0 || m.tagsDecide()) {
					if q.route == "HEAD digest" && m.most > 0 {
						_ = (request{route: "GET digest", digest: q.digest}).send(r.Context(), s)
					}
					if q.route == "GET digest" || m.most > 0 {
						given(q.digest)
					}
				}
			},
			"blob": func(r *rapid.T) {
				q := request{route: rapid.SampledFrom([]string{"HEAD blob", "GET blob", "range"}).Draw(r, "route"), digest: rapid.SampledFrom(blobs).Draw(r, "blob")}
				size := int64(len(w.objects[q.digest]))
				want := "no"
				if m.repository() && m.blob(q.digest, size) {
					want = "yes"
				}
				if got := verdict(q.send(r.Context(), s)); got != want {
					r.Fatalf("%s %s: %s, want %s", q.route, q.digest, got, want)
				}
			},
			"list": func(r *rapid.T) {
				q := request{route: rapid.SampledFrom([]string{"tags", "referrers"}).Draw(r, "route"), digest: images[0].digest}
				if got := verdict(q.send(r.Context(), s)) == "yes"; got != m.repository() {
					r.Fatalf("%s: %v", q.route, got)
				}
			},
			"": func(r *rapid.T) {
				if w.open != 0 {
					r.Fatalf("%d bodies were left open", w.open)
				}
			},
		})
		_ = w.notes.Close()
	})
}
