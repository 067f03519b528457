package isolation_test

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// passesOn has bolt's repository claim, as one does that passes on what a host of bolt's says,
// to have what is acme's: with the right sizes, and with other bytes.
func (v *vault) passesOn() {
	other := func(d oci.Digest) []byte {
		return bytes.Repeat([]byte("x"), len(v.reg.reg.Bytes("acme/app", d)))
	}
	for _, d := range []oci.Digest{v.layer, v.img.Platforms[0].Config} {
		data := other(d)
		v.reg.reg.SetBlob("bolt/own", d, bytes.NewReader(data), int64(len(data)))
	}
	v.reg.reg.SetManifest("bolt/own", v.manifest, "application/vnd.oci.image.manifest.v1+json", other(v.manifest))
	v.reg.reg.SetTag("bolt/own", "mine", v.manifest)
}

// claimed is all that bolt may ask for by its claims.
func (v *vault) claimed() []string {
	all := []string{"/manifests/" + v.manifest.String(), "/manifests/mine"}
	for _, d := range []oci.Digest{v.layer, v.img.Platforms[0].Config} {
		all = append(all, "/blobs/"+d.String())
	}
	return all
}

func (v *vault) boltAsks() {
	v.t.Helper()
	bolt := v.as("bolt")
	for _, path := range v.claimed() {
		_ = bolt.do(http.MethodHead, "/v2/reg.example/bolt/own"+path)
		for _, header := range [][]string{{"Range", "bytes=64-191"}, nil} {
			if a := bolt.get("/v2/reg.example/bolt/own"+path, header...); bytes.Contains(a.everything(), v.canary) {
				v.t.Errorf("bolt has acme's bytes, of %s %v", path, header)
			}
		}
	}
}

// A repository that passes on the answers of a host of its owner's (a proxy project, a remote
// repository) can claim to have any digest. That brings nobody what another repository of the
// registry has brought here, whether it was claimed before or after.
func TestClaims_BringNothing(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]func(*vault){
		"what is kept":           func(v *vault) { v.warm(); v.passesOn() },
		"what is kept afterward": func(v *vault) { v.passesOn(); v.boltAsks(); v.warm() },
		"after a restart":        func(v *vault) { v.passesOn(); v.boltAsks(); v.warm(); v.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVault(t)
			order(v)
			v.boltAsks()
			v.warm() // and acme has its own all the while
		})
	}
}

// Whoever began it, a download brings nobody what came by another repository's answers.
func TestClaims_WhileItComes(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"acme", "bolt"} {
		t.Run(first+" first", func(t *testing.T) {
			t.Parallel()
			v := newVault(t)
			v.passesOn()
			repos := map[string]string{"acme": "acme/app", "bolt": "bolt/own"}
			gates := map[string]*ocitest.Gate{}
			for who, repo := range repos {
				gates[who] = ocitest.NewGate()
				v.reg.reg.Inject(ocitest.Match{Repo: repo, Digest: v.layer}, 0, ocitest.Fault{HoldBody: gates[who], HoldAt: 1})
			}
			var all sync.WaitGroup
			answers := map[string]*answer{"acme": {}, "bolt": {}}
			ask := func(who string) {
				all.Go(func() {
					*answers[who] = v.as(who).get("/v2/reg.example/" + repos[who] + "/blobs/" + v.layer.String())
				})
				if err := v.reg.reg.WaitFor(t.Context(), ocitest.Match{Repo: repos[who], Digest: v.layer}, 1); err != nil {
					t.Error(err)
				}
			}
			second := map[string]string{"acme": "bolt", "bolt": "acme"}[first]
			ask(first)
			ask(second)
			gates["acme"].Open()
			gates["bolt"].Open()
			all.Wait()
			if bytes.Contains(answers["bolt"].everything(), v.canary) {
				t.Error("bolt has acme's bytes")
			}
			if a := answers["acme"]; !a.ok() || !bytes.Contains(a.body, v.canary) {
				t.Errorf("acme's own: %s", a)
			}
		})
	}
}

// A repository that has what it says gets what is kept, and the registry sends pieces of it
// once, whoever asks afterwards.
func TestClaims_ThatAreTrue(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	layer, plain := make([]byte, 3<<20), make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{1}).Read(layer)
	copy(layer, []byte{0x1f, 0x8b}) // gzip
	img := v.reg.reg.AddImage("acme/app", "v2", ocitest.Image{LayerBytes: [][]byte{layer, plain}})
	if a := v.as("acme").pull("reg.example/acme/app", img, 0); !a.ok() {
		t.Fatal(a)
	}
	for v.node.cache.Numbers().Fills > 0 { // until all of it is kept
		runtime.Gosched()
	}
	for _, d := range append(img.Platforms[0].Layers, img.Platforms[0].Config) {
		data := v.reg.reg.Bytes("acme/app", d)
		v.reg.reg.SetBlob("bolt/own", d, bytes.NewReader(data), int64(len(data)))
	}
	v.reg.reg.AddManifest("bolt/own", "v2", img.MediaType, v.reg.reg.Bytes("acme/app", img.Digest))
	v.reg.reg.Forget()
	// A connection that breaks in the middle of a piece fails no pull.
	v.reg.reg.Inject(ocitest.Match{Repo: "bolt/own", Digest: img.Platforms[0].Config}, 1, ocitest.Fault{Cut: ocitest.CutClose, CutAt: 10})
	for range 3 {
		if a := v.as("bolt").pull("reg.example/bolt/own", img, 0); !a.ok() {
			t.Fatal(a)
		}
	}
	var sent int64
	for _, r := range v.reg.reg.Requests(ocitest.Match{Repo: "bolt/own", Kind: ocitest.Blob, Method: http.MethodGet}) {
		sent += r.Sent
	}
	if most := int64(len(plain) + len(layer)/8); sent < int64(len(plain)) || sent > most { // what is not compressed comes whole
		t.Errorf("the registry has sent %d bytes of blobs that are kept", sent)
	}
	if n := v.reg.reg.Count(ocitest.Match{Repo: "bolt/own", Kind: ocitest.Manifest, Method: http.MethodGet}); n != 1 {
		t.Errorf("%d GETs of the manifest", n)
	}
}
