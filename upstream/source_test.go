package upstream

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

const size = 300_000

// eachWay runs a test against registries that serve blobs themselves and that
// redirect, with and without TLS, HTTP/2 and tokens.
func eachWay(t *testing.T, test func(t *testing.T, up *ocitest.Registry, src oci.Source)) {
	t.Helper()
	for name, o := range map[string]ocitest.Options{
		"plain":               {},
		"plain with CDN":      {CDN: ocitest.CDNSame},
		"tls":                 {TLS: true},
		"tls with CDN":        {TLS: true, CDN: ocitest.CDNSame},
		"h2, tokens and CDN":  {TLS: true, HTTP2: true, Auth: ocitest.Bearer, CDN: ocitest.CDNTLS, TokenServer: true},
		"basic":               {Auth: ocitest.Basic},
		"manifests on a CDN":  {CDN: ocitest.CDNSame, ManifestRedirect: true},
		"tokens of one field": {Auth: ocitest.Bearer, TokenShape: ocitest.AccessTokenOnly},
	} {
		t.Run(name, func(t *testing.T) {
			up := ocitest.New(t, o)
			up.AddUser("alice", "secret", "acme/app")
			test(t, up, over(t, up).As(as("acme", "alice", "secret")))
		})
	}
}

func TestResolveAndOpenManifest(t *testing.T) {
	eachWay(t, func(t *testing.T, up *ocitest.Registry, src oci.Source) {
		img := up.AddImage("acme/app", "v1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{4096}})
		res, err := src.Resolve(t.Context(), "acme/app", "v1")
		if err != nil {
			t.Fatal(err)
		}
		want := up.Bytes("acme/app", img.Digest)
		if res.Digest != img.Digest || res.MediaType != img.MediaType || res.Size != int64(len(want)) || res.Asked.IsZero() {
			t.Errorf("Resolve: %+v, want %s %s %d", res, img.Digest, img.MediaType, len(want))
		}
		o := oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: img.Digest}
		st, err := src.Stat(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if st.Digest != img.Digest || st.Size != int64(len(want)) || st.MediaType != img.MediaType || st.Body != nil || st.Asked.IsZero() {
			t.Errorf("Stat: %+v", st)
		}
		c, err := src.Open(t.Context(), o, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, c); !bytes.Equal(got, want) || c.MediaType != img.MediaType || c.Size != int64(len(want)) || c.Length != c.Size {
			t.Errorf("Open: %d bytes, %+v", len(got), c.Descriptor)
		}
	})
}

func TestOpenBlob(t *testing.T) {
	eachWay(t, func(t *testing.T, up *ocitest.Registry, src oci.Source) {
		d := up.AddNoise("acme/app", 1, size)
		all := up.Bytes("acme/app", d)
		o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: d}
		st, err := src.Stat(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size != size || st.Body != nil || st.Asked.IsZero() {
			t.Errorf("Stat: %+v", st)
		}
		for _, r := range []oci.Range{{}, {Start: 0, Length: 10}, {Start: 100, Length: 1}, {Start: 1000}, {Start: -7}, {Start: -2 * size}, {Start: size - 1, Length: 1 << 40}, {Length: size}} {
			c, err := src.Open(t.Context(), o, r)
			if err != nil {
				t.Errorf("%+v: %v", r, err)
				continue
			}
			checkPiece(t, c, all, r)
			if again := c.Again; again != nil {
				if c, err = again(t.Context(), oci.Range{Start: 5, Length: 5}); err != nil {
					t.Errorf("%+v again: %v", r, err)
					continue
				}
				checkPiece(t, c, all, oci.Range{Start: 5, Length: 5})
				if !c.Asked.IsZero() {
					t.Error("what came without asking the registry claims to prove something")
				}
			}
		}
	})
}

func checkPiece(t *testing.T, c *oci.Content, all []byte, r oci.Range) {
	t.Helper()
	got := readAll(t, c)
	start, end := r.Start, int64(len(all))
	if start < 0 {
		start = max(0, end+start)
	}
	if r.Length > 0 {
		end = min(end, start+r.Length)
	}
	if c.Offset != start || c.Length != end-start || c.Size != int64(len(all)) || !bytes.Equal(got, all[start:end]) {
		t.Errorf("%+v: offset %d, length %d, size %d, %d bytes; want %d to %d", r, c.Offset, c.Length, c.Size, len(got), start, end)
	}
}

// A redirect target that was good once may be used again, and the registry
// hears nothing of it.
func TestAgainDoesNotAskTheRegistry(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{CDN: ocitest.CDNSame})
	d := up.AddNoise("acme/app", 1, size)
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: d}
	c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{Length: 10})
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, c)
	up.Forget()
	if c, err = c.Again(t.Context(), oci.Range{Start: 10, Length: 10}); err != nil {
		t.Fatal(err)
	}
	readAll(t, c)
	if n := up.BlobGETs(); n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
	up.ExpireRedirects()
	_, err = c.Again(t.Context(), oci.Range{})
	if e := classed(t, err, oci.UpstreamError); e.Class.Refuses() {
		t.Error("a redirect target denied something")
	}
	if up.BlobGETs() != 0 {
		t.Error("the registry was asked after all")
	}
}

func TestNoAgainWithoutRedirect(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddNoise("acme/app", 1, 100)}
	c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, c)
	if c.Again != nil {
		t.Error("there is an Again, which would ask the registry")
	}
}

func TestLists(t *testing.T) {
	eachWay(t, func(t *testing.T, up *ocitest.Registry, src oci.Source) {
		img := up.AddImage("acme/app", "", ocitest.Image{Layers: []int64{2048}})
		for i := range 5 {
			up.SetTag("acme/app", fmt.Sprint("v", i), img.Digest)
		}
		up.AddArtifact("acme/app", img.Digest, "application/x.sbom", 1)
		req := oci.ListRequest{Kind: oci.Tags, Repo: "acme/app", Query: url.Values{"n": {"2"}}}
		pages := 0
		for ; pages < 5; pages++ {
			p, err := src.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if p.Asked.IsZero() || len(p.Body) == 0 {
				t.Errorf("page %+v", p)
			}
			if p.Next == "" {
				break
			}
			if req.Query, err = url.ParseQuery(p.Next); err != nil {
				t.Fatal(err)
			}
		}
		if pages != 2 {
			t.Errorf("the last page is number %d, want 2 (5 tags by 2)", pages)
		}
		p, err := src.List(t.Context(), oci.ListRequest{Kind: oci.Referrers, Repo: "acme/app", Digest: img.Digest, Query: url.Values{"artifactType": {"application/x.sbom"}}})
		if err != nil {
			t.Fatal(err)
		}
		if p.MediaType != "application/vnd.oci.image.index.v1+json" || !bytes.Contains(p.Body, []byte("application/x.sbom")) || p.FiltersApplied != "artifactType" {
			t.Errorf("referrers: %s %q %s", p.MediaType, p.FiltersApplied, p.Body)
		}
	})
}

func TestNoReferrersIsNotFound(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{NoReferrers: true})
	img := up.AddImage("acme/app", "v1", ocitest.Image{})
	_, err := over(t, up).As(Identity{}).List(t.Context(), oci.ListRequest{Kind: oci.Referrers, Repo: "acme/app", Digest: img.Digest})
	wantClass(t, err, oci.NotFound)
}

// The whole story of a blob in HTTP versions: whatever is small shares an
// HTTP/2 connection, bytes come over HTTP/1.1.
func TestHTTPVersions(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{TLS: true, HTTP2: true, Auth: ocitest.Bearer, CDN: ocitest.CDNTLS})
	img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{size}})
	src := over(t, up).As(Identity{})
	if _, err := src.Resolve(t.Context(), "acme/app", "v1"); err != nil {
		t.Fatal(err)
	}
	for kind, d := range map[oci.Kind]oci.Digest{oci.Manifest: img.Digest, oci.Blob: img.Platforms[0].Layers[0]} {
		o := oci.Object{Repo: "acme/app", Kind: kind, Digest: d}
		if _, err := src.Stat(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		c, err := src.Open(t.Context(), o, oci.Range{})
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, c)
	}
	if _, err := src.List(t.Context(), oci.ListRequest{Kind: oci.Tags, Repo: "acme/app"}); err != nil {
		t.Fatal(err)
	}
	for _, q := range up.Requests(ocitest.Match{}) {
		want := "HTTP/2.0"
		if q.Kind == ocitest.Blob && q.Range != "bytes=0-0" {
			want = "HTTP/1.1"
		}
		if q.Proto != want {
			t.Errorf("%s came over %s, want %s", q, q.Proto, want)
		}
	}
	if n := up.Count(ocitest.Match{Kind: ocitest.Blob, Method: http.MethodHead}); n != 0 {
		t.Errorf("%d HEADs of blobs", n)
	}
}

func TestHeadersAreOurOwn(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer})
	img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2048}})
	r := newRegistry(t, Options{Origin: up.Origin(), UserAgent: "berth/1.2.3"})
	c, err := r.As(Identity{}).Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: img.Platforms[0].Layers[0]}, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, c)
	known := map[string]bool{"User-Agent": true, "Accept": true, "Accept-Encoding": true, "Authorization": true, "Range": true}
	for _, q := range up.Requests(ocitest.Match{}) {
		if q.Header.Get("User-Agent") != "berth/1.2.3" || q.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s: headers %v", q, q.Header)
		}
		for h := range q.Header {
			if !known[h] {
				t.Errorf("%s: unexpected header %s", q, h)
			}
		}
		if n := len(q.Header.Values("Accept")); n > 1 {
			t.Errorf("%s: %d Accept lines; some registries read only the first", q, n)
		}
	}
}

func TestEmptyBlob(t *testing.T) {
	eachWay(t, func(t *testing.T, up *ocitest.Registry, src oci.Source) {
		o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddBlob("acme/app", nil)}
		st, err := src.Stat(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size != 0 || st.Asked.IsZero() {
			t.Errorf("Stat: %+v", st)
		}
		for _, r := range []oci.Range{{}, {Length: 100}, {Start: -1}} {
			c, err := src.Open(t.Context(), o, r)
			if err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
			if b := readAll(t, c); len(b) != 0 || c.Size != 0 || c.Length != 0 || c.Offset != 0 {
				t.Errorf("%+v: %+v", r, c)
			}
		}
	})
}

// A range behind the end tells the size, and proves nothing.
// A registry that says what is wrong with a Range before it looks at who asks has shown
// nothing: the empty blob, beyond whose end every Range is, is asked for whole.
func TestEmptyBlob_A416ProvesNothing(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true})
	up.AddUser("alice", "secret") // who may read nothing
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddBlob("acme/app", nil)}
	up.Inject(ocitest.Match{Kind: ocitest.Blob, Where: func(r ocitest.Request) bool { return r.Range != "" }}, 0, ocitest.Status(http.StatusRequestedRangeNotSatisfiable, "Content-Range", "bytes */0"))
	src := over(t, up).As(as("acme", "alice", "secret"))
	if c, err := src.Stat(t.Context(), o); err == nil {
		t.Errorf("it is proven: %+v", c)
	}
	if c, err := src.Open(t.Context(), o, oci.Range{Length: 1}); err == nil {
		_ = c.Body.Close()
		t.Errorf("it is proven: %+v", c)
	}
}

func TestRangeBehindTheEnd(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddNoise("acme/app", 1, 1000)}
	c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{Start: 5000, Length: 10})
	if err != nil {
		t.Fatal(err)
	}
	if b := readAll(t, c); len(b) != 0 || c.Size != 1000 || c.Length != 0 || !c.Asked.IsZero() {
		t.Errorf("%d bytes, %+v", len(b), c)
	}
}

func TestRegistryWithoutRanges(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{NoRange: true})
	d := up.AddNoise("acme/app", 1, size)
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: d}
	src := over(t, up).As(Identity{})
	st, err := src.Stat(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size != size {
		t.Errorf("Stat: size %d", st.Size)
	}
	c, err := src.Open(t.Context(), o, oci.Range{Start: 100, Length: 10})
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c); c.Offset != 0 || c.Length != size || c.Size != size || !bytes.Equal(got, up.Bytes("acme/app", d)) {
		t.Errorf("offset %d, length %d, size %d, %d bytes", c.Offset, c.Length, c.Size, len(got))
	}
}

func TestUnknownSize(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{NoRange: true, Fault: func(ocitest.Request) ocitest.Fault { return ocitest.Fault{Chunked: true} }})
	d := up.AddNoise("acme/app", 1, size)
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: d}
	c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c); c.Length != -1 || c.Size != -1 || len(got) != size {
		t.Errorf("length %d, size %d, %d bytes", c.Length, c.Size, len(got))
	}
}

// Bodies that end too early never end cleanly, where there is a way to know.
func TestTruncation(t *testing.T) {
	for _, cut := range []ocitest.Cut{ocitest.CutReset, ocitest.CutClose} {
		for _, r := range []oci.Range{{}, {Start: 1000, Length: 200_000}, {Start: 5}, {Start: -250_000}} {
			for _, chunked := range []bool{false, true} {
				up := ocitest.New(t, ocitest.Options{CDN: ocitest.CDNSame})
				o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddNoise("acme/app", 1, size)}
				up.Inject(ocitest.Match{Server: ocitest.CDNServer}, 0, ocitest.Fault{Cut: cut, CutAt: 100_000, Chunked: chunked})
				c, err := over(t, up).As(Identity{}).Open(t.Context(), o, r)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(c.Body)
				_ = c.Body.Close()
				wantClass(t, err, oci.UpstreamError)
				if len(b) > 100_000 {
					t.Errorf("%d bytes", len(b))
				}
			}
		}
	}
}

// A piece whose length is only told by Content-Range, and whose body ends too
// early and cleanly.
func TestShortPieceWithoutLength(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddNoise("acme/app", 1, size)}
	up.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.CutAfter(1000, ocitest.CutEnd))
	c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{Start: 10, Length: 50_000})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Body.Close()
	b, err := io.ReadAll(c.Body)
	wantClass(t, err, oci.UpstreamError)
	if len(b) != 1000 {
		t.Errorf("%d bytes", len(b))
	}
}

// A piece that goes on behind its announced end.
func TestEndlessPiece(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddNoise("acme/app", 1, 1000)}
	up.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Fault{Endless: true})
	c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{Start: 10, Length: 500})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Body.Close()
	b, err := io.ReadAll(c.Body)
	wantClass(t, err, oci.Corrupt)
	if len(b) > 990 {
		t.Errorf("%d bytes of 500", len(b))
	}
}

// A piece that begins elsewhere is no use, and the whole is asked for.
func TestRange_Shifted(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{})
	o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: up.AddNoise("acme/app", 1, size)}
	up.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Fault{ShiftRange: -4})
	c, err := over(t, up).As(Identity{}).Open(t.Context(), o, oci.Range{Start: 100, Length: 100})
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c); c.Offset != 0 || oci.DigestOf(got) != o.Digest {
		t.Errorf("%d bytes from %d", len(got), c.Offset)
	}
}
