package cache_test

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"berth/oci"
)

// A repository was public, and is private now: what is pushed to it afterwards, and pulled
// with an account, must not get into the scope of what everyone is shown.
func TestFleet_WhatWasPublicYesterday(t *testing.T) {
	for _, node := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			w := newCrowd(t, 2)
			blobs, manifest := w.image("acme/app", random(1, 3*mib))
			for _, n := range w.nodes { // everybody pulls it, also as nobody
				if err := pullImage(t.Context(), n.as("", ""), "acme/app", manifest, blobs); err != nil {
					t.Fatal(err)
				}
			}
			w.sealedUp()
			time.Sleep(2 * time.Hour)
			w.set(func() { w.private["acme/app"] = []string{"acme"} }) // it becomes private
			secret := bytes.Repeat([]byte("CANARY of acme. "), 200_000)
			secretBlobs, secretManifest := w.image("acme/app", secret)
			if err := pullImage(t.Context(), w.nodes[0].as("acme", "s1"), "acme/app", secretManifest, secretBlobs); err != nil {
				t.Fatal(err)
			}
			w.sealedUp()
			// mallory lists its digest in a public repository of his own.
			evil := w.addManifest("mallory/app", "latest", fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, secretBlobs[0].Digest, len(secret)))
			for _, who := range []string{"", "globex"} {
				s := w.nodes[node].as(who, who)
				if err := check(t.Context(), s, evil); err != nil {
					t.Fatal(err)
				}
				got, err := get(t.Context(), s, oci.Object{Repo: "mallory/app", Kind: oci.Blob, Digest: secretBlobs[0].Digest}, oci.Range{})
				if err == nil {
					t.Errorf("node %d: %q has got %d bytes of what acme pushed after its repository had become private: %q", node, who, len(got), got[:min(len(got), 16)])
				} else {
					t.Logf("node %d: %q: %v", node, who, err)
				}
			}
		})
	}
}
