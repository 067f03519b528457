package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"time"
)

const (
	user, password = "walk", "not-a-secret"
	token          = "a-token-for-the-walk"

	tag          = "1"
	layerSize    = 6 << 20
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// The registry takes its time to answer, and between pieces of what it sends, as one
// elsewhere does: whoever reads what is being fetched has to wait for it in every run.
const (
	away    = 20 * time.Millisecond
	between = time.Millisecond
)

type slow struct{ io.ReadSeeker }

// Read reads the next piece.
func (s slow) Read(p []byte) (int, error) {
	time.Sleep(between)
	return s.ReadSeeker.Read(p)
}

// registry has one image with one layer, and wants a token for it, which it gives to
// its one user.
type registry struct {
	base     string
	server   *http.Server
	objects  map[string][]byte // by path below /v2/team/app/
	layer    string            // its digest
	requests atomic.Int64      // for the image
}

func startRegistry(ctx context.Context) (*registry, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	layer := make([]byte, layerSize)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(layer) // it never fails
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
		"layers": []map[string]any{{"mediaType": layerType, "digest": digest(layer), "size": len(layer)}},
	})
	if err != nil {
		return nil, err
	}
	r := &registry{base: "http://" + l.Addr().String(), layer: digest(layer), objects: map[string][]byte{
		"manifests/" + tag: manifest, "manifests/" + digest(manifest): manifest,
		"blobs/" + digest(config): config, "blobs/" + digest(layer): layer,
	}}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go func() { _ = r.server.Serve(l) }() // until it is closed
	return r, nil
}

func digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

func (r *registry) close() { _ = r.server.Close() } // whoever is connected is ours

// ServeHTTP answers as a registry does that hands the sign-in to a token endpoint.
func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/token" {
		if u, p, _ := q.BasicAuth(); u != user || p != password {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300}) // the other side complains
		return
	}
	name, ofImage := strings.CutPrefix(q.URL.Path, "/v2/team/app/")
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if q.Header.Get("Authorization") != "Bearer "+token {
		challenge := fmt.Sprintf(`Bearer realm="%s/token",service="walk"`, r.base)
		if ofImage {
			challenge += `,scope="repository:team/app:pull"`
		}
		w.Header().Set("Www-Authenticate", challenge)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return
	}
	if !ofImage { // the ping
		return
	}
	r.requests.Add(1)
	time.Sleep(away)
	data, ok := r.objects[name]
	if !ok {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if path.Dir(name) == "manifests" {
		w.Header().Set("Content-Type", manifestType)
	}
	w.Header().Set("Docker-Content-Digest", digest(data))
	http.ServeContent(w, q, "", time.Time{}, slow{bytes.NewReader(data)})
}
