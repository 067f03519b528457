package upstream

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// ranged is what a registry does with a request that has a Range.
type ranged func(w http.ResponseWriter, r *http.Request, blob []byte)

// blobServer serves one blob to whoever wants all of it.
func blobServer(t *testing.T, blob []byte, odd ranged) (*Registry, *atomic.Int64) {
	t.Helper()
	var asked atomic.Int64
	srv := newWeb(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") && r.URL.Path != "/store" {
			return // anyone may come in
		}
		asked.Add(1)
		if r.Header.Get("Range") != "" {
			odd(w, r, blob)
			return
		}
		if r.URL.Query().Has("redirect") {
			http.Redirect(w, r, "/store", http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		_, _ = w.Write(blob)
	}))
	u := mustURL(t, srv.URL)
	r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: u.Host}})
	r.pause = 1
	return r, &asked
}

func rangeStatusIs(status int) ranged {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(status) }
}

func partialAs(header string) ranged {
	return func(w http.ResponseWriter, _ *http.Request, blob []byte) {
		w.Header().Set("Content-Range", header)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(blob[:10])
	}
}

// Range is a hint: where it is not understood, the blob is there all the same.
func TestRange_NotUnderstood(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789"), 400)
	d := oci.DigestOf(blob)
	for name, odd := range map[string]ranged{
		"400":        rangeStatusIs(400), // containerd#11953
		"405":        rangeStatusIs(405),
		"406":        rangeStatusIs(406),
		"412":        rangeStatusIs(412),
		"416":        rangeStatusIs(416), // registry.k8s.io#333
		"422":        rangeStatusIs(422),
		"500":        rangeStatusIs(500),
		"501":        rangeStatusIs(501),
		"409":        rangeStatusIs(409),
		"431":        rangeStatusIs(431),
		"502":        rangeStatusIs(502),
		"503":        rangeStatusIs(503),
		"504":        rangeStatusIs(504),
		"breaks off": func(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) },
		"416 with a size": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Range", "bytes */4000")
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
		"416 only where the end is beyond": func(w http.ResponseWriter, r *http.Request, blob []byte) {
			var from, to int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil || to < len(blob) {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
				return
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
		"206 repeats what was asked": func(w http.ResponseWriter, r *http.Request, blob []byte) { // bottlerocket#4709
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(blob[:10])
		},
		"206 without Content-Range": func(w http.ResponseWriter, _ *http.Request, blob []byte) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(blob[:10])
		},
		"206 of another piece":         partialAs("bytes 5-14/4000"),
		"206 beyond its own size":      partialAs("bytes 0-9/5"),
		"206 in another unit":          partialAs("items 0-9/4000"),
		"206 with more than was asked": partialAs("bytes 0-3999/4000"),
	} {
		for _, r := range []oci.Range{{Length: 100}, {Start: 100, Length: 10000}, {Start: 3000}, {Start: -100}} {
			reg, asked := blobServer(t, blob, odd)
			src := reg.As(Identity{})
			o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: d}
			if _, err := src.Stat(t.Context(), o); err != nil {
				t.Errorf("%s: Stat: %v", name, err)
			}
			before := asked.Load()
			c, err := src.Open(t.Context(), o, r)
			if err != nil {
				t.Errorf("%s %+v: %v", name, r, err)
				continue
			}
			got := readAll(t, c)
			if c.Offset < 0 || c.Offset+int64(len(got)) > int64(len(blob)) || !bytes.Equal(got, blob[c.Offset:c.Offset+int64(len(got))]) || len(got) == 0 {
				t.Errorf("%s %+v: %d bytes from %d, not those of the blob", name, r, len(got), c.Offset)
			}
			if n := asked.Load() - before; n > 2 && !strings.HasPrefix(name, "50") && name != "breaks off" {
				t.Errorf("%s %+v: %d requests", name, r, n)
			}
		}
	}
}

// What a Range has nothing to do with is not asked for again without one.
func TestRange_RefusedForAnotherReason(t *testing.T) {
	blob := []byte("a blob")
	for status, want := range map[int]oci.Class{401: oci.NoCredential, 403: oci.NoCredential, 404: oci.NotFound, 410: oci.NotFound, 429: oci.RateLimited} {
		reg, asked := blobServer(t, blob, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(status)
		})
		_, err := reg.As(Identity{}).Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf(blob)}, oci.Range{Start: 1, Length: 2})
		wantClass(t, err, want)
		if n := asked.Load(); n != 1 {
			t.Errorf("%d: asked %d times", status, n)
		}
	}
}

// The same behind a redirect, where a storage may also call it forbidden.
func TestRange_NotUnderstoodByStorage(t *testing.T) {
	for _, status := range []int{400, 403, 416, 501} {
		up := ocitest.New(t, ocitest.Options{CDN: ocitest.CDNSame})
		o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddNoise("acme/app", 1, 5000)}
		up.Inject(ocitest.Match{Server: ocitest.CDNServer, Where: func(r ocitest.Request) bool { return r.Range != "" }}, 0, ocitest.Status(status))
		src := over(t, up).As(Identity{})
		if _, err := src.Stat(t.Context(), o); err != nil {
			t.Errorf("%d: Stat: %v", status, err)
		}
		c, err := src.Open(t.Context(), o, oci.Range{Start: 100})
		if err != nil {
			t.Errorf("%d: %v", status, err)
			continue
		}
		if got := readAll(t, c); c.Offset != 0 || oci.DigestOf(got) != o.Digest {
			t.Errorf("%d: %d bytes from %d", status, len(got), c.Offset)
		}
	}
}

func encoded(t *testing.T, data []byte, w io.WriteCloser, b *bytes.Buffer) []byte {
	t.Helper()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	return encoded(t, data, gzip.NewWriter(&b), &b)
}

func deflated(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	return encoded(t, data, zlib.NewWriter(&b), &b)
}

// labelled serves body under a Content-Encoding, for the blob with the digest d.
func labelled(t *testing.T, label string, body []byte) *Registry {
	t.Helper()
	srv := newWeb(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return
		}
		w.Header().Set("Content-Encoding", label)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: mustURL(t, srv.URL).Host}})
	r.pause = 1
	return r
}

// A Content-Encoding that nobody asked for may be a label on the right bytes, or true.
// The digest decides, whatever the size.
func TestContentEncoding_DigestDecides(t *testing.T) {
	tar := make([]byte, 6<<20) // like a layer: its beginning looks the same encoded by the registry and by its maker
	for i := range tar {
		tar[i] = byte(i * i >> 8)
	}
	smallTar := tar[:5000]
	noise := make([]byte, 6<<20) // as large when it is encoded
	rand.NewChaCha8([32]byte{7}).Read(noise)
	for name, test := range map[string]struct {
		label      string
		blob, body []byte
	}{
		"aws-chunked, only a label":            {"aws-chunked", tar, tar}, // noobaa-core#9138
		"a label nobody knows":                 {"x-something", tar, tar},
		"two labels":                           {"aws-chunked, x-s3", smallTar, smallTar},
		"x-gzip on a tar":                      {"x-gzip", tar, tar}, // moby#17595, Pulp
		"gzip on a compressed layer":           {"GZIP", gzipped(t, tar), gzipped(t, tar)},
		"gzip, really":                         {"gzip", tar, gzipped(t, tar)},
		"x-gzip, really":                       {"x-gzip", tar, gzipped(t, tar)},
		"aws-chunked and gzip":                 {"aws-chunked,gzip", tar, gzipped(t, tar)},
		"a compressed layer, compressed again": {"gzip", gzipped(t, tar), gzipped(t, gzipped(t, tar))},
		"deflate, really":                      {"deflate", tar, deflated(t, tar)},
		"gzip, really, of noise":               {"gzip", noise, gzipped(t, noise)},
		"gzip on a large compressed layer":     {"gzip", gzipped(t, noise), gzipped(t, noise)},
		"small, only a label":                  {"gzip", smallTar, smallTar},
		"small, really":                        {"gzip", smallTar, gzipped(t, smallTar)},
		"small, a compressed layer":            {"gzip", gzipped(t, smallTar), gzipped(t, smallTar)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := labelled(t, test.label, test.body).As(Identity{})
			o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf(test.blob)}
			if _, err := src.Stat(t.Context(), o); err != nil {
				t.Errorf("Stat: %v", err)
			}
			for _, r := range []oci.Range{{}, {Start: 1000, Length: 2000}, {Start: int64(len(test.blob)) - 10}} {
				c, err := src.Open(t.Context(), o, r)
				if err != nil {
					t.Errorf("%+v: %v", r, err)
					continue
				}
				if got := readAll(t, c); !bytes.Equal(got, test.blob[c.Offset:min(c.Offset+int64(len(got)), int64(len(test.blob)))]) || len(got) == 0 {
					t.Errorf("%+v: %d bytes from %d, not those of the blob", r, len(got), c.Offset)
				}
			}
		})
	}
}

// What is neither the blob nor its encoding ends with an error, and is not remembered.
func TestContentEncoding_Neither(t *testing.T) {
	tar := bytes.Repeat([]byte("0123456789abcdef"), 400_000)
	var noise bytes.Buffer
	for i := range 1 << 20 {
		fmt.Fprintf(&noise, "%x", i*7919)
	}
	for name, body := range map[string][]byte{
		"another blob": gzipped(t, noise.Bytes()), "cut short": gzipped(t, noise.Bytes())[:1<<20], "small": gzipped(t, []byte("another")),
	} {
		src := labelled(t, "gzip", body).As(Identity{})
		c, err := src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf(tar)}, oci.Range{})
		if err == nil {
			var got []byte
			if got, err = io.ReadAll(c.Body); err == nil && oci.DigestOf(got) == oci.DigestOf(tar) {
				t.Errorf("%s: the right bytes", name)
			}
			_ = c.Body.Close()
			continue
		}
		if e, ok := errors.AsType[*oci.Error](err); !ok || !e.Class.Indeterminate() && e.Class != oci.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A server of static files calls a blob what its name looks like.
func TestContentType_OfABlob(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 400_000)
	for _, kind := range []string{"text/html", "text/html; charset=utf-8", "application/xhtml+xml", "text/plain", "", "image/png"} {
		for _, blob := range [][]byte{[]byte("small"), large} {
			srv := newWeb(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", kind)
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
			}))
			r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: mustURL(t, srv.URL).Host}, Before: withoutAuth})
			r.pause = 1
			o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf(blob)}
			c, err := r.As(Identity{}).Open(t.Context(), o, oci.Range{})
			if err != nil {
				t.Errorf("%q: %v", kind, err)
				continue
			}
			if oci.DigestOf(readAll(t, c)) != o.Digest {
				t.Errorf("%q: other bytes", kind)
			}
			if _, err := r.As(Identity{}).Stat(t.Context(), o); err != nil {
				t.Errorf("%q: Stat: %v", kind, err)
			}
		}
	}
}

// Only a Range may get a piece (RFC 9110, 15.3.7): one that comes without would be
// taken for the whole.
func TestRange_PieceThatNobodyAskedFor(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789"), 400)
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf(blob)}
	for name, header := range map[string]string{
		"the beginning": "bytes 0-9/4000", "of unknown size": "bytes 0-9/*", "of terabytes": "bytes 0-9/99999999999999", "the end": "bytes 3990-3999/4000",
	} {
		odd := partialAs(header)
		srv := newWeb(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				odd(w, r, blob)
			}
		}))
		reg := newRegistry(t, Options{Origin: oci.Origin{Scheme: "http", Host: mustURL(t, srv.URL).Host}})
		reg.pause = 1
		if c, err := reg.As(Identity{}).Open(t.Context(), o, oci.Range{}); err == nil {
			t.Errorf("%s: %d bytes from %d, as all of it", name, len(readAll(t, c)), c.Offset)
		}
	}
}
