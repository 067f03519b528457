package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serveBare is Go's net/http with files and no logic at all: what a server in
// this language can reach here. Manifests come from memory, blobs from the disk.
// args: address, folder.
func serveBare(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("bare ADDRESS FOLDER")
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", args[0])
	if err != nil {
		return err
	}
	s := newServer(&bare{dir: args[1]})
	context.AfterFunc(ctx, func() { _ = s.Close() })
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type bare struct {
	dir       string
	manifests sync.Map // reference to []byte
}

// ServeHTTP answers /v2/NAME/(manifests|blobs)/REFERENCE.
func (b *bare) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	at := strings.LastIndexByte(q.URL.Path, '/')
	reference := q.URL.Path[at+1:]
	switch {
	case strings.HasSuffix(q.URL.Path[:at], "/manifests"):
		b.manifest(w, reference)
	case strings.HasSuffix(q.URL.Path[:at], "/blobs"):
		b.blob(w, q, reference)
	}
}

func (b *bare) manifest(w http.ResponseWriter, reference string) {
	kept, ok := b.manifests.Load(reference)
	if !ok {
		data, err := os.ReadFile(filepath.Join(b.dir, filepath.Base(reference)))
		if err != nil {
			http.Error(w, "not here", http.StatusNotFound)
			return
		}
		kept = data
		b.manifests.Store(reference, data)
	}
	data, _ := kept.([]byte)
	w.Header().Set("Content-Type", manifestType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = bytes.NewReader(data).WriteTo(w) // whoever leaves, leaves
}

func (b *bare) blob(w http.ResponseWriter, q *http.Request, reference string) {
	f, err := os.Open(filepath.Join(b.dir, filepath.Base(reference)))
	if err != nil {
		http.Error(w, "not here", http.StatusNotFound)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, q, "", time.Time{}, f)
}
