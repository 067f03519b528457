package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The account without which the registry answers 401, as a private one does.
const (
	upstreamUser     = "bench"
	upstreamPassword = "not-a-secret"
)

// conditions are what the registry does besides answering.
type conditions struct {
	// LatencyMS passes before every answer, ConnectMS before the first request of a
	// connection is read: the round trips of a request, and of making a connection.
	LatencyMS, ConnectMS int
	// PerConnection is how many bytes a connection carries in a second; 0: all it can.
	PerConnection int
	// Trouble for the next requests for blobs: how many are cut in the middle,
	// how many get 503, how many 429.
	Cut, Busy, Limited int
}

// counts are what the registry was asked since the last time.
type counts struct{ Requests, Bytes int64 }

// registry is a small, fast one: blobs are pieces of one noise in memory, each
// with a number of its own in front.
type registry struct {
	noise []byte

	mu        sync.RWMutex
	c         conditions
	blobs     map[string]blob // by digest
	manifests map[string]manifest
	images    map[string]image // by tag
	last      uint64

	requests, bytes atomic.Int64
	limiter         limiter
}

type manifest struct {
	digest string
	data   []byte
}

// maxBlob is the largest that can be made.
const maxBlob = 512 << 20

func newRegistry(largest int64) *registry {
	r := &registry{noise: make([]byte, largest), blobs: map[string]blob{}, manifests: map[string]manifest{}, images: map[string]image{}}
	_, _ = rand.NewChaCha8([32]byte{7}).Read(r.noise) // it never fails
	return r
}

// addBlob makes a blob that nobody has seen, and gives its digest.
func (r *registry) addBlob(size int64) string {
	r.mu.Lock()
	r.last++
	b := blob{head: fmt.Appendf(nil, "%032d", r.last), size: size}
	r.mu.Unlock()
	return r.add(b)
}

func (r *registry) add(b blob) (digest string) {
	h := sha256.New()
	h.Write(b.head)
	h.Write(r.noise[len(b.head):b.size])
	digest = fmt.Sprintf("sha256:%x", h.Sum(nil))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[digest] = b
	return digest
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// addManifest makes an image of blobs of 10 KiB, under tag and its digest.
func (r *registry) addManifest(tag string, blobs []string) string {
	return r.put(tag, descriptor(layerType, blobs[0], smallBlob), blobs, smallBlob)
}

const (
	layerType  = "application/vnd.oci.image.layer.v1.tar"
	configType = "application/vnd.oci.image.config.v1+json"
	tarBlock   = 512
)

// addImage makes an image of so many layers of that size, rounded down to what a tar
// archive may have: each is one file of noise. All but the last are those of the image
// like, which is empty where nobody has seen any of them.
func (r *registry) addImage(tag string, layers int, size int64, like string) (image, error) {
	size -= size % tarBlock
	r.mu.RLock()
	old, ok := r.images[like]
	r.mu.RUnlock()
	if like != "" && (!ok || len(old.Blobs) != layers+1) {
		return image{}, fmt.Errorf("there is no image %q of %d layers", like, layers)
	}
	var blobs []string
	if ok {
		blobs = slices.Clone(old.Blobs[1:layers])
	}
	for len(blobs) < layers {
		blobs = append(blobs, r.addLayer(size))
	}
	config, _ := json.Marshal(map[string]any{ // no error: strings
		"architecture": runtime.GOARCH, "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": blobs},
	})
	i := image{Tag: tag, Blobs: append([]string{r.add(blob{head: config, size: int64(len(config))})}, blobs...)}
	i.Manifest = r.put(tag, descriptor(configType, i.Blobs[0], int64(len(config))), blobs, size)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[tag] = i
	return i, nil
}

// addLayer makes a layer that nobody has seen.
func (r *registry) addLayer(size int64) string {
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	r.mu.Lock()
	r.last++
	name := fmt.Sprintf("%032d", r.last)
	r.mu.Unlock()
	_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size - tarBlock}) // no error: it is written to memory
	return r.add(blob{head: head.Bytes(), size: size})
}

// image says where its pieces are: digests, the configuration's first.
type image struct {
	Tag, Manifest string
	Blobs         []string
}

func descriptor(kind, digest string, size int64) map[string]any {
	return map[string]any{"mediaType": kind, "digest": digest, "size": size}
}

// put makes the manifest of an image whose blobs are there, and gives its digest.
func (r *registry) put(tag string, config map[string]any, blobs []string, size int64) string {
	layers := make([]map[string]any, len(blobs))
	for i, d := range blobs {
		layers[i] = descriptor(layerType, d, size)
	}
	data, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": layers}) // no error: strings and numbers
	m := manifest{digest: fmt.Sprintf("sha256:%x", sha256.Sum256(data)), data: data}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[tag], r.manifests[m.digest] = m, m
	return m.digest
}

// ServeHTTP answers /v2/NAME/(manifests|blobs)/REFERENCE.
func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.requests.Add(1)
	r.mu.RLock()
	latency := time.Duration(r.c.LatencyMS) * time.Millisecond
	r.mu.RUnlock()
	if latency > 0 {
		time.Sleep(latency)
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if user, password, _ := q.BasicAuth(); user != upstreamUser || password != upstreamPassword {
		w.Header().Set("Www-Authenticate", `Basic realm="bench"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	parts := strings.Split(q.URL.Path, "/")
	reference, kind := parts[len(parts)-1], parts[max(len(parts)-2, 0)]
	switch kind {
	case "manifests":
		r.serveManifest(w, q, reference)
	case "blobs":
		r.serveBlob(w, q, reference)
	default: // the ping
		w.WriteHeader(http.StatusOK)
	}
}

func (r *registry) serveManifest(w http.ResponseWriter, q *http.Request, reference string) {
	r.mu.RLock()
	m, ok := r.manifests[reference]
	r.mu.RUnlock()
	if !ok {
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Content-Type", manifestType)
	w.Header().Set("Docker-Content-Digest", m.digest)
	w.Header().Set("Content-Length", strconv.Itoa(len(m.data)))
	if q.Method != http.MethodHead {
		n, _ := w.Write(m.data) // whoever leaves, leaves
		r.bytes.Add(int64(n))
	}
}

func (r *registry) serveBlob(w http.ResponseWriter, q *http.Request, digest string) {
	r.mu.RLock()
	b, ok := r.blobs[digest]
	r.mu.RUnlock()
	if !ok {
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Etag", strconv.Quote(digest))
	if q.Method == http.MethodGet && r.trouble(w, b) {
		return
	}
	counted := &countedWriter{ResponseWriter: w, bytes: &r.bytes}
	http.ServeContent(counted, q, "", time.Time{}, b.reader(r.noise))
}

// trouble plays one of the faults that are due, if any.
func (r *registry) trouble(w http.ResponseWriter, b blob) bool {
	switch {
	case r.due(func(c *conditions) *int { return &c.Busy }):
		http.Error(w, "busy", http.StatusServiceUnavailable)
	case r.due(func(c *conditions) *int { return &c.Limited }):
		w.Header().Set("Retry-After", "1")
		http.Error(w, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`, http.StatusTooManyRequests)
	case r.due(func(c *conditions) *int { return &c.Cut }):
		w.Header().Set("Content-Length", strconv.FormatInt(b.size, 10))
		_, _ = b.reader(r.noise).send(w, b.size/2) // it is cut either way
		panic(http.ErrAbortHandler)
	default:
		return false
	}
	return true
}

// due takes one from a count that is not 0.
func (r *registry) due(of func(*conditions) *int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := of(&r.c)
	if *left == 0 {
		return false
	}
	*left--
	return true
}

// take gives the counts and starts them anew.
func (r *registry) take() counts {
	return counts{Requests: r.requests.Swap(0), Bytes: r.bytes.Swap(0)}
}

func (r *registry) set(c conditions) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.c = c
	r.limiter.set(c.PerConnection, time.Duration(c.ConnectMS)*time.Millisecond)
	r.take()
}

func smallDigests(blobs map[string]blob) []string {
	var all []string
	for d, b := range blobs {
		if b.size == smallBlob {
			all = append(all, d)
		}
	}
	slices.Sort(all)
	return all
}
