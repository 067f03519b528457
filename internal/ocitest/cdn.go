package ocitest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"berth/oci"
)

// CDN is where blobs really come from.
type CDN uint8

// The places.
const (
	// NoCDN: the registry sends its blobs itself.
	NoCDN CDN = iota
	// CDNSame: another port, the registry's scheme.
	CDNSame
	// CDNPlain: another port, http.
	CDNPlain
	// CDNTLS: another port, https.
	CDNTLS
)

// ExpireRedirects makes every redirect target that was given out answer 403.
func (r *Registry) ExpireRedirects() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
}

// redirect sends the client to a URL that is good for a while and for everyone.
func (r *Registry) redirect(w http.ResponseWriter, req Request, d oci.Digest) {
	path := "/" + string(req.Kind) + "/" + d.String()
	r.mu.Lock()
	expires, epoch := r.opts.Now().Add(r.opts.RedirectTTL).Unix(), r.epoch
	r.mu.Unlock()
	q := url.Values{"repo": {req.Repo}, "expires": {strconv.FormatInt(expires, 10)}}
	q.Set("signature", r.sign(path, req.Repo, expires, epoch))
	u, err := url.Parse(r.CDNURL() + path + "?" + q.Encode())
	if err != nil {
		panic(err) // it is our own URL
	}
	location := u.String()
	if r.opts.Location != nil {
		location = r.opts.Location(req, u)
	}
	w.Header().Set("Docker-Content-Digest", d.String()) // Quay has it on the redirect itself
	w.Header().Set("Location", location)
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func (r *Registry) sign(path, repo string, expires int64, epoch int) string {
	m := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(m, "%s\n%s\n%d\n%d", path, repo, expires, epoch)
	return hex.EncodeToString(m.Sum(nil))
}

// cdn answers for presigned URLs alone.
func (r *Registry) cdn(w http.ResponseWriter, hr *http.Request, req Request) {
	q := hr.URL.Query()
	expires, _ := strconv.ParseInt(q.Get("expires"), 10, 64)
	r.mu.Lock()
	epoch, now := r.epoch, r.opts.Now().Unix()
	r.mu.Unlock()
	switch {
	case hr.Header.Get("Authorization") != "":
		// As S3 does: the signature in the query is one mechanism already.
		http.Error(w, "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>", http.StatusBadRequest)
	case hr.Method != http.MethodGet, now >= expires,
		!hmac.Equal([]byte(q.Get("signature")), []byte(r.sign(hr.URL.Path, req.Repo, expires, epoch))):
		http.Error(w, "<Error><Code>AccessDenied</Code></Error>", http.StatusForbidden)
	case req.Kind == Manifest:
		m, ok := r.findManifest(req.Repo, req.Digest)
		if !ok {
			http.NotFound(w, hr)
			return
		}
		r.sendManifest(w, hr, req.Digest, m)
	default:
		b, ok := r.findBlob(req.Repo, req.Digest)
		if !ok {
			http.NotFound(w, hr)
			return
		}
		r.sendBlob(w, hr, req.Digest, b)
	}
}
