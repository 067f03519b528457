package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// addresses are where the registry's process answers.
type addresses struct {
	Plain, TLS, Control string
	CA                  string // PEM
}

// serveUpstream is that process. It prints its addresses as a line of JSON.
func serveUpstream(ctx context.Context) error {
	r := newRegistry(maxBlob)
	cert, ca, err := selfSigned()
	if err != nil {
		return err
	}
	var open [3]net.Listener
	for i := range open {
		if open[i], err = new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	at := addresses{open[0].Addr().String(), open[1].Addr().String(), open[2].Addr().String(), ca}
	if err := json.NewEncoder(os.Stdout).Encode(at); err != nil {
		return err
	}
	offered := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	failed := make(chan error, len(open))
	go func() { failed <- newServer(r).Serve(r.limiter.listen(open[0])) }()
	go func() {
		s := newServer(r)
		s.TLSConfig = offered // ServeTLS offers HTTP/2
		failed <- s.ServeTLS(r.limiter.listen(open[1]), "", "")
	}()
	go func() { failed <- newServer(r.control()).Serve(open[2]) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
}

// selfSigned is a certificate for 127.0.0.1, and itself as the authority.
func selfSigned() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(authority), nil
}

// control is how the benchmark tells the registry what to be.
func (r *registry) control() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /blob/{size}", func(w http.ResponseWriter, q *http.Request) {
		size, err := strconv.ParseInt(q.PathValue("size"), 10, 64)
		if err != nil || size < 32 || size > maxBlob {
			http.Error(w, "a size", http.StatusBadRequest)
			return
		}
		reply(w, r.addBlob(size))
	})
	m.HandleFunc("POST /manifest/{tag}", func(w http.ResponseWriter, q *http.Request) {
		r.mu.RLock()
		blobs := smallDigests(r.blobs)
		r.mu.RUnlock()
		reply(w, r.addManifest(q.PathValue("tag"), blobs))
	})
	m.HandleFunc("POST /image/{tag}/{layers}/{size}", func(w http.ResponseWriter, q *http.Request) {
		layers, err := strconv.Atoi(q.PathValue("layers"))
		size, bad := strconv.ParseInt(q.PathValue("size"), 10, 64)
		if err != nil || bad != nil || layers < 1 || size < 2*tarBlock || size > maxBlob {
			http.Error(w, "a number of layers, and a size", http.StatusBadRequest)
			return
		}
		i, err := r.addImage(q.PathValue("tag"), layers, size, q.FormValue("like"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		reply(w, i)
	})
	m.HandleFunc("POST /conditions", func(w http.ResponseWriter, q *http.Request) {
		var c conditions
		if err := json.NewDecoder(q.Body).Decode(&c); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.set(c)
		reply(w, c)
	})
	m.HandleFunc("POST /counts", func(w http.ResponseWriter, _ *http.Request) { reply(w, r.take()) })
	return m
}

func reply(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(v) // the other side complains
}

// upstream is the registry's process, as the benchmark sees it.
type upstream struct {
	addresses

	server *server
	caFile string
}

func startUpstream(ctx context.Context, dir string) (*upstream, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, self, "upstream") //nolint:gosec // G204: ourselves
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.Stderr = os.Stderr
	s, err := start(c)
	if err != nil {
		return nil, err
	}
	u := &upstream{server: s, caFile: filepath.Join(dir, "ca.pem")}
	if err := json.NewDecoder(out).Decode(&u.addresses); err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	return u, os.WriteFile(u.caFile, []byte(u.CA), 0o600)
}

// blob makes a blob that nobody has seen.
func (u *upstream) blob(ctx context.Context, size int64) (digest string, err error) {
	return digest, u.order(ctx, fmt.Sprintf("blob/%d", size), nil, &digest)
}

// manifest makes an image of all blobs of 10 KiB.
func (u *upstream) manifest(ctx context.Context, tag string) (digest string, err error) {
	return digest, u.order(ctx, "manifest/"+tag, nil, &digest)
}

// image makes an image that nobody has seen, or only its last layer if it is like another.
func (u *upstream) image(ctx context.Context, tag string, layers int, size int64, like string) (i image, err error) {
	return i, u.order(ctx, fmt.Sprintf("image/%s/%d/%d?like=%s", tag, layers, size, like), nil, &i)
}

// set says how the registry behaves from now on, and counts from 0.
func (u *upstream) set(ctx context.Context, c conditions) error {
	return u.order(ctx, "conditions", c, &c)
}

// counts are those since they were last asked for, or set was called.
func (u *upstream) counts(ctx context.Context) (c counts, err error) {
	return c, u.order(ctx, "counts", nil, &c)
}

func (u *upstream) order(ctx context.Context, path string, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+u.Control+"/"+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(a.Body)
		return fmt.Errorf("%s: %s", a.Status, text)
	}
	return json.NewDecoder(a.Body).Decode(into)
}
