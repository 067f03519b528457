package upstream

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
	"berth/upstream/dialect"
)

// wants answers 401 with a challenge to whoever has not that token.
func wants(text string, challenge func(host string) string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer "+text {
			return true
		}
		w.Header().Set("WWW-Authenticate", challenge(r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
}

func grants(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

// Token services that have moved, or say things in their own way.
func TestTokenService_InItsOwnWay(t *testing.T) {
	plain := func(host string) string { return `Bearer realm="http://` + host + `/token",service="s"` }
	for name, f := range map[string]struct {
		challenge func(string) string
		tokens    http.HandlerFunc
	}{
		"lower case, and capitals": {func(h string) string { return `bearer Realm="http://` + h + `/token",Service="s"` }, grants(`{"token":"t"}`)},
		"a realm with a query": {func(h string) string { return `Bearer realm="http://` + h + `/token?tenant=7",service="s"` }, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("tenant") != "7" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			grants(`{"token":"t"}`)(w, r)
		}},
		"an empty token beside": {plain, grants(`{"token":"","access_token":"t"}`)},
		"201": {plain, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusCreated)
			grants(`{"token":"t"}`)(w, r)
		}},
		"an old issued_at": {plain, grants(`{"token":"t","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}`)},
		"a slash that is missing": {plain, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				answering(http.StatusMovedPermanently, "Location", "/token/?"+r.URL.RawQuery)(w, r)
				return
			}
			if u, p, ok := r.BasicAuth(); !ok || u != "alice" || p != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			grants(`{"token":"t"}`)(w, r)
		}},
	} {
		g := wants("t", f.challenge)
		r, srv := newFrontend(t, frontend{ping: func(w http.ResponseWriter, r *http.Request) { g(w, r) }, guard: g, tokens: f.tokens})
		src := r.As(as("acme", "alice", "secret"))
		for range 3 {
			if _, err := src.Resolve(t.Context(), "acme/app", "v1"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := srv.count(); n > 10 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

// A token whose life ends sooner than it said, and a registry that calls that forbidden:
// another token is asked for, once. Whoever really may not is refused all the same.
func TestForbidden_OfAnOldToken(t *testing.T) {
	for name, says := range map[string]ocitest.Fault{
		"no text": ocitest.Status(http.StatusForbidden), "the specification's": ocitest.Denied(),
		"expired": ocitest.Problem(http.StatusForbidden, "DENIED", "authorization token has expired"),
	} {
		t.Run(name, func(t *testing.T) {
			sail(t, ocitest.Options{Auth: ocitest.Bearer, Private: true}, dialect.Generic, func(v *voyage) {
				img := v.up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2000}})
				other := v.up.AddImage("acme/app", "v2", ocitest.Image{Layers: []int64{3000}, Seed: 2})
				s := v.as("acme")
				if err := pull(v.t.Context(), s, img); err != nil {
					v.t.Fatal(err)
				}
				time.Sleep(20 * time.Second)
				var old atomic.Value
				for _, q := range v.up.Requests(ocitest.Match{Kind: ocitest.Manifest}) {
					old.Store(q.Header.Get("Authorization"))
				}
				tooOld := v.up.Inject(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Header.Get("Authorization") == old.Load() }}, 0, says)
				before := v.up.Count(ocitest.Match{Kind: ocitest.Token})
				if err := pull(v.t.Context(), s, other); err != nil {
					v.t.Error(err)
				}
				if n := v.up.Count(ocitest.Match{Kind: ocitest.Token}) - before; n != 1 {
					v.t.Errorf("%d tokens", n)
				}
				tooOld.Remove()
				time.Sleep(20 * time.Second)
				v.up.Inject(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Kind == ocitest.Manifest }}, 0, says)
				before = v.up.Count(ocitest.Match{Kind: ocitest.Token})
				for range 3 {
					if _, err := s.Resolve(v.t.Context(), "acme/app", "v3"); err == nil || !oci.ClassOf(err).Refuses() {
						v.t.Errorf("a right that is gone: %v", err)
					}
				}
				if n := v.up.Count(ocitest.Match{Kind: ocitest.Token}) - before; n > 1 {
					v.t.Errorf("%d tokens for one that is refused", n)
				}
			})
		})
	}
}

// What stands beside a manifest is a hint.
func TestManifest_InItsOwnWay(t *testing.T) {
	doc := []byte(frontManifest)
	d := oci.DigestOf(doc)
	for name, f := range map[string]http.HandlerFunc{
		"203": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeIndex)
			w.Header().Set("Docker-Content-Digest", d.String())
			w.WriteHeader(http.StatusNonAuthoritativeInfo)
			_, _ = w.Write(doc)
		},
		"a length of 0 to HEAD": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeIndex)
			w.Header().Set("Docker-Content-Digest", d.String())
			if r.Method == http.MethodHead {
				w.Header().Set("Content-Length", "0")
				return
			}
			_, _ = w.Write(doc)
		},
		"a digest in quotes": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeIndex)
			w.Header().Set("Docker-Content-Digest", `"`+d.String()+`"`)
			_, _ = w.Write(doc)
		},
		"a digest in capitals": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeIndex)
			w.Header().Set("Docker-Content-Digest", strings.ToUpper(d.String()))
			_, _ = w.Write(doc)
		},
		"the digest twice": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeIndex)
			w.Header()["Docker-Content-Digest"] = []string{d.String(), d.String()}
			_, _ = w.Write(doc)
		},
		"a file of the tag's digest alone, HTTP/1.0": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\nContent-Type: %s\r\n\r\n", oci.MediaTypeIndex)
			if r.Method != http.MethodHead {
				_, _ = conn.Write(doc)
			}
		},
	} {
		srv := newWeb(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				f(w, r)
			}
		}))
		r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: mustURL(t, srv.URL).Host}})
		r.pause = 1
		src := r.As(Identity{})
		got, err := src.Resolve(t.Context(), "acme/app", "v1")
		if err != nil || got.Digest != d || got.Size != int64(len(doc)) {
			t.Errorf("%s: %+v, %v", name, got.Descriptor, err)
		}
		o := oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: d}
		if st, err := src.Stat(t.Context(), o); err != nil || st.Size != int64(len(doc)) {
			t.Errorf("%s: Stat: %+v %v", name, st, err)
		}
		if c, err := src.Open(t.Context(), o, oci.Range{}); err != nil {
			t.Errorf("%s: Open: %v", name, err)
		} else if !bytes.Equal(readAll(t, c), doc) {
			t.Errorf("%s: other bytes", name)
		}
	}
}

// Pieces that are told in other ways.
func TestRange_InItsOwnWay(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789"), 400)
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf(blob)}
	piece := func(form string) ranged {
		return func(w http.ResponseWriter, r *http.Request, blob []byte) {
			var from, to int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
				to = len(blob) - 1
			}
			to = min(to, len(blob)-1)
			w.Header().Set("Content-Range", fmt.Sprintf(form, from, to))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(blob[from : to+1])
		}
	}
	for name, odd := range map[string]ranged{
		"an equals sign": piece("bytes=%d-%d/4000"), "capitals": piece("Bytes %d-%d/4000"), "of unknown size": piece("bytes %d-%d/*"), "no unit": piece("%d-%d/4000"),
		"200 with a piece's header": func(w http.ResponseWriter, _ *http.Request, blob []byte) {
			w.Header().Set("Content-Range", "bytes 0-3999/4000")
			_, _ = w.Write(blob)
		},
		"203": func(w http.ResponseWriter, _ *http.Request, blob []byte) {
			w.WriteHeader(http.StatusNonAuthoritativeInfo)
			_, _ = w.Write(blob)
		},
		"in parts": func(w http.ResponseWriter, r *http.Request, blob []byte) {
			var from, to int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
				to = len(blob) - 1
			}
			to = min(to, len(blob)-1)
			m := multipart.NewWriter(w)
			w.Header().Set("Content-Type", "multipart/byteranges; boundary="+m.Boundary())
			w.WriteHeader(http.StatusPartialContent)
			p, _ := m.CreatePart(textproto.MIMEHeader{"Content-Range": {fmt.Sprintf("bytes %d-%d/4000", from, to)}})
			_, _ = p.Write(blob[from : to+1])
			_ = m.Close()
		},
	} {
		reg, asked := blobServer(t, blob, odd)
		src := reg.As(Identity{})
		if _, err := src.Stat(t.Context(), o); err != nil {
			t.Errorf("%s: Stat: %v", name, err)
		}
		before := asked.Load()
		for _, r := range []oci.Range{{Length: 100}, {Start: 100, Length: 10000}, {Start: 3000}} {
			c, err := src.Open(t.Context(), o, r)
			if err != nil {
				t.Errorf("%s %+v: %v", name, r, err)
				continue
			}
			if got := readAll(t, c); len(got) == 0 || !bytes.Equal(got, blob[c.Offset:c.Offset+int64(len(got))]) {
				t.Errorf("%s %+v: %d bytes from %d", name, r, len(got), c.Offset)
			}
		}
		if n := asked.Load() - before; n > 6 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

// Whole blobs, likewise.
func TestBlob_InItsOwnWay(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789"), 700_000)
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf(blob)}
	for name, f := range map[string]http.HandlerFunc{
		"203": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNonAuthoritativeInfo)
			_, _ = w.Write(blob)
		},
		"moved for good": func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/store") {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
				return
			}
			w.Header().Set("Location", "/store")
			w.WriteHeader(http.StatusMovedPermanently)
		},
	} {
		srv := newWeb(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				f(w, r)
			}
		}))
		r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: mustURL(t, srv.URL).Host}})
		r.pause = 1
		src := r.As(Identity{})
		if st, err := src.Stat(t.Context(), o); err != nil {
			t.Errorf("%s: Stat: %+v %v", name, st, err)
		}
		if c, err := src.Open(t.Context(), o, oci.Range{}); err != nil {
			t.Errorf("%s: Open: %v", name, err)
		} else if oci.DigestOf(readAll(t, c)) != o.Digest {
			t.Errorf("%s: other bytes", name)
		}
	}
}

// Lists, likewise.
func TestLists_InTheirOwnWay(t *testing.T) {
	sub := oci.DigestOf([]byte("subject"))
	for name, c := range map[string]struct {
		kind ocitest.Kind
		f    ocitest.Fault
		want oci.Class
	}{
		"tags: null":           {ocitest.Tags, ocitest.Fault{Status: 200, Body: []byte(`{"name":"acme/app","tags":null}`)}, oci.Unclassified},
		"tags, 203":            {ocitest.Tags, ocitest.Fault{Status: 203, Body: []byte(`{"name":"acme/app","tags":["a"]}`)}, oci.Unclassified},
		"manifests: null":      {ocitest.Referrers, ocitest.Fault{Status: 200, Body: []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}`)}, oci.Unclassified},
		"an index with a type": {ocitest.Referrers, ocitest.Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json; charset=utf-8"}}, Body: []byte(`{"schemaVersion":2,"manifests":[]}`)}, oci.Unclassified},
	} {
		up := ocitest.New(t, ocitest.Options{})
		up.AddRepo("acme/app")
		up.Inject(ocitest.Match{Kind: c.kind}, 0, c.f)
		kind := oci.Tags
		if c.kind == ocitest.Referrers {
			kind = oci.Referrers
		}
		_, err := over(t, up).As(Identity{}).List(t.Context(), oci.ListRequest{Kind: kind, Repo: "acme/app", Digest: sub, Query: url.Values{}})
		if oci.ClassOf(err) != c.want && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
