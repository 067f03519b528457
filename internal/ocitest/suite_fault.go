package ocitest

import (
	"bytes"
	"net/http"
	"testing"

	"berth/oci"
)

// faultCases: whatever a registry does, no wrong bytes end cleanly.
func faultCases() []suiteCase {
	return []suiteCase{
		{"a faulty manifest", testFaultyManifest},
		{"a faulty blob", testFaultyBlob},
		{"a faulty range", testFaultyRange},
		{"a lying registry", testLiar},
		{"a login page", testLoginPage},
		{"trouble that passes", testRecovery},
	}
}

// bodyFault changes what arrives. blind says that nobody can tell without
// hashing.
type bodyFault struct {
	fault Fault
	blind bool
}

// bodyFaults are what can happen to a body of size bytes. Those in the middle
// stay there when the fault lasts, so that resuming gets on by halves.
func bodyFaults(size int64) map[string]bodyFault {
	middle := size / 2
	return map[string]bodyFault{
		"a bit flipped at the start": {FlipBit(0), true},
		"a bit flipped later":        {FlipBit(middle), true},
		"reset at once":              {CutAfter(0, CutReset), false},
		"reset":                      {CutAfter(middle, CutReset), false},
		"closed at once":             {CutAfter(0, CutClose), false},
		"closed":                     {CutAfter(middle, CutClose), false},
		"ended cleanly":              {CutAfter(middle, CutEnd), true},
		"announced shorter":          {Fault{Length: middle}, true},
		"announced longer":           {Fault{Length: 1 << 30}, false},
		"chunked":                    {Fault{Chunked: true}, false},
		"compressed":                 {Fault{Gzip: true}, false},
		"endless":                    {Fault{Endless: true}, true},
		"wrong digest header":        {Header("Docker-Content-Digest", string(oci.DigestOf([]byte("other")))), false},
		"wrong content type":         {Header("Content-Type", "text/html"), false},
		"no content type":            {NoHeader("Content-Type"), false},
		"dropped":                    {Drop(), false},
	}
}

func testFaultyManifest(t *testing.T, s Suite) {
	_, sample := addManifest(New(t, Options{}), "v1")
	for name, f := range bodyFaults(int64(len(sample))) {
		t.Run(name, func(t *testing.T) {
			for _, times := range []int{1, 0} {
				r, src := s.open(t, Options{}, nobody())
				d, data := addManifest(r, "v1")
				in := r.Inject(Match{Kind: Manifest, Method: http.MethodGet}, times, f.fault)
				rightOrError(t, src, manifestOf(d), oci.Range{}, data)
				if n := in.Hits(); n == 0 || times > 0 && n != times {
					t.Errorf("the fault happened %d times", n)
				}
			}
		})
	}
}

func testFaultyBlob(t *testing.T, s Suite) {
	for size, of := range map[int64]string{100_003: "small", 4<<20 + 3: "large"} {
		for name, f := range bodyFaults(size) {
			if s.Raw && f.blind {
				continue
			}
			for times, often := range []string{"always", "once"} {
				t.Run(name+", "+of+", "+often, func(t *testing.T) {
					r, src := s.open(t, Options{}, nobody())
					d := r.AddNoise("acme/app", 1, size)
					in := r.Inject(Match{Kind: Blob}, times, f.fault)
					rightOrError(t, src, blobOf(d), oci.Range{}, r.Bytes("acme/app", d))
					if n := in.Hits(); n == 0 || times > 0 && n != times {
						t.Errorf("the fault happened %d times", n)
					}
				})
			}
		}
	}
}

func testFaultyRange(t *testing.T, s Suite) {
	for name, f := range map[string]Fault{
		"ignored":               {IgnoreRange: true},
		"ignored, chunked":      {IgnoreRange: true, Chunked: true},
		"moved ahead":           {ShiftRange: -50},
		"moved behind":          {ShiftRange: 50},
		"another Content-Range": Header("Content-Range", "bytes 7-1006/300000"),
		"another total":         Header("Content-Range", "bytes 1000-1999/400000"),
		"no Content-Range":      NoHeader("Content-Range"),
		"bad Content-Range":     Header("Content-Range", "bytes 1000-999999999999999999999/3"),
		"another unit":          Header("Content-Range", "items 1000-1999/300000"),
		"cut":                   CutAfter(500, CutClose),
		"416":                   Status(http.StatusRequestedRangeNotSatisfiable, "Content-Range", "bytes */300000"),
	} {
		t.Run(name, func(t *testing.T) {
			r, src := s.open(t, Options{}, nobody())
			d := r.AddNoise("acme/app", 1, 300_000)
			want := r.Bytes("acme/app", d)
			times := 0
			if f.Cut != NoCut {
				times = 3 // for ever, resuming would get on by 500 bytes
			}
			r.Inject(Match{Kind: Blob, Where: func(q Request) bool { return q.Range != "" }}, times, f)
			rightOrError(t, src, blobOf(d), oci.Range{Start: 1000, Length: 1000}, want)
			rightOrError(t, s.New(t, r, nobody()), blobOf(d), oci.Range{Start: -1000}, want)
			rightOrError(t, s.New(t, r, nobody()), blobOf(d), oci.Range{Start: 1000}, want)
		})
	}
}

// A registry that serves other content under a digest it does not have.
func testLiar(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	right := []byte(`{"schemaVersion":2,"real":true}`)
	fake := []byte(`{"schemaVersion":2,"real":no!!}`)
	d := oci.DigestOf(right)
	r.SetManifest("acme/app", d, DockerManifest, fake)
	if rightOrError(t, src, manifestOf(d), oci.Range{}, right) {
		t.Error("a lying registry's manifest was believed")
	}
	if s.Raw {
		return
	}
	r.SetBlob("acme/app", d, bytes.NewReader(fake), int64(len(fake)))
	if rightOrError(t, src, blobOf(d), oci.Range{}, right) {
		t.Error("a lying registry's blob was believed")
	}
	large := Noise(1, 6<<20)
	r.SetBlob("acme/app", d, large, large.Size())
	if rightOrError(t, s.New(t, r, nobody()), blobOf(d), oci.Range{}, right) {
		t.Error("a lying registry's large blob was believed")
	}
}

// A captive portal answers 200 to everything.
func testLoginPage(t *testing.T, s Suite) {
	r, src := s.open(t, Options{}, nobody())
	d, data := addManifest(r, "v1")
	b := r.AddNoise("acme/app", 1, 10_000)
	page := Status(http.StatusOK, "Content-Type", "text/html")
	page.Body = []byte("<html>please log in</html>")
	r.Inject(Match{}, 0, page)
	if got, err := src.Resolve(within(t), "acme/app", "v1"); err == nil {
		t.Errorf("a login page is manifest %s", got.Digest)
	} else {
		failed(t, err)
	}
	if c, err := src.Stat(within(t), manifestOf(d)); err == nil {
		t.Errorf("a login page proves manifest %s", c.Digest)
	}
	if c, err := src.Stat(within(t), blobOf(b)); err == nil {
		t.Errorf("a login page proves blob %s", c.Digest)
	}
	if rightOrError(t, src, manifestOf(d), oci.Range{}, data) {
		t.Error("a login page is a manifest")
	}
	if !s.Raw && rightOrError(t, src, blobOf(b), oci.Range{}, r.Bytes("acme/app", b)) {
		t.Error("a login page is a blob")
	}
}

// What passes by itself must not reach the client.
func testRecovery(t *testing.T, s Suite) {
	for name, f := range map[string]Fault{
		"503": Status(http.StatusServiceUnavailable),
		"500": Status(http.StatusInternalServerError),
		"502": Status(http.StatusBadGateway, "Content-Type", "text/html"),
		"504": Status(http.StatusGatewayTimeout),
	} {
		t.Run(name, func(t *testing.T) {
			r, src := s.open(t, Options{}, nobody())
			d, data := addManifest(r, "v1")
			b := r.AddNoise("acme/app", 1, 10_000)
			r.Inject(Match{Kind: Manifest}, 1, f)
			r.Inject(Match{Kind: Blob}, 1, f)
			mustRead(t, src, manifestOf(d), oci.Range{}, data)
			mustRead(t, src, blobOf(b), oci.Range{}, r.Bytes("acme/app", b))
		})
	}
	if s.Raw {
		return
	}
	for name, f := range map[string]Fault{"cut": CutAfter(3_000_000, CutClose), "reset": CutAfter(3_000_000, CutReset), "flipped": FlipBit(5)} {
		t.Run(name, func(t *testing.T) {
			r, src := s.open(t, Options{}, nobody())
			d := r.AddNoise("acme/app", 1, 4_000_000)
			r.Inject(Match{Kind: Blob}, 1, f)
			mustRead(t, src, blobOf(d), oci.Range{}, r.Bytes("acme/app", d))
		})
	}
}
