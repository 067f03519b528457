package upstream

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// A 200 that does not name the digest may be a document of another kind. It counts as a
// yes when its bytes are the blob, as neither yes nor no when they are not, and proves
// nothing when it was cut off before one could tell.
func TestBlob_DocumentInItsPlace(t *testing.T) {
	suspended := `{"error":"account suspended"}`
	layer := strings.Repeat("\x1f\x8b layer ", 20_000)
	config := "{" + strings.Repeat(" ", 100_000) + "}"
	for name, test := range map[string]struct {
		sent, wanted string
		unknown, cut bool
		understood   bool
		proves       bool
	}{
		"the blob":                             {sent: "content", wanted: "content", understood: true, proves: true},
		"the blob, of unknown length":          {sent: "content", wanted: "content", unknown: true, understood: true, proves: true},
		"a configuration":                      {sent: config, wanted: config, understood: true, proves: true},
		"a layer":                              {sent: layer, wanted: layer, understood: true, proves: true},
		"a layer of unknown length":            {sent: layer, wanted: layer, unknown: true, understood: true, proves: true},
		"JSON of another kind":                 {sent: suspended, wanted: "content"},
		"JSON of unknown length":               {sent: suspended, wanted: "content", unknown: true},
		"a page that says it is text":          {sent: "<!DOCTYPE html><title>Sign in</title>", wanted: "content"},
		"long JSON":                            {sent: config, wanted: "content"},
		"nothing":                              {wanted: "content"},
		"a layer that was cut off":             {sent: layer, wanted: layer, cut: true, understood: true, proves: true}, // after what tells
		"JSON that was cut off":                {sent: suspended, wanted: "content", cut: true, understood: true},
		"something short that is no document":  {sent: "no such account", wanted: "content"},
		"a large layer, as far as one can say": {sent: strings.Repeat("layer", 1<<20), wanted: "content", understood: true, proves: true}, // more than any document
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Before: withoutAuth})
			r.pause = time.Millisecond
			r.blob = roundTripper(func(*http.Request) (*http.Response, error) {
				resp := replyWith(200, test.sent)
				if test.cut {
					resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader([]byte(test.sent[:len(test.sent)/2])), cutOff{errReset}))
				}
				if test.unknown {
					resp.ContentLength = -1
				}
				return resp, nil
			})
			o := oci.Object{Repo: "acme/app", Kind: oci.Blob, Digest: oci.DigestOf([]byte(test.wanted))}
			c, err := r.As(Identity{}).Open(t.Context(), o, oci.Range{Length: 16 << 20})
			if !test.understood {
				if e, ok := errors.AsType[*oci.Error](err); !ok || !e.NotUnderstood {
					t.Fatalf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Body.Close()
			if c.Asked.IsZero() == test.proves {
				t.Errorf("it proves: %v", !c.Asked.IsZero())
			}
			got, err := io.ReadAll(c.Body)
			if want := test.sent; !test.cut && (err != nil || string(got) != want) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
			}
			if test.cut && (err == nil || string(got) != test.sent[:len(test.sent)/2]) {
				t.Errorf("cut off: %d bytes, %v", len(got), err)
			}
		})
	}
}
