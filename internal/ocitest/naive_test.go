package ocitest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"berth/oci"
)

// naive is the smallest Source that passes the suite: it keeps nothing but a
// token, and tries everything three times. planted names a bug that it has, to
// see the suite find it.
type naive struct {
	reg     *Registry
	as      Caller
	client  *http.Client
	planted string
	tokens  chan map[string]string // a mutex and what it guards
}

func newNaive(t *testing.T, r *Registry, c Caller, planted string) *naive {
	t.Helper()
	n := &naive{reg: r, as: c, client: r.Client(), planted: planted, tokens: make(chan map[string]string, 1)}
	n.tokens <- map[string]string{}
	t.Cleanup(n.client.CloseIdleConnections)
	return n
}

func (n *naive) Principal(string) oci.Principal {
	if n.as.User == "" {
		return oci.Principal{}
	}
	if n.planted == "principal" {
		return oci.Principal{Organisation: n.as.Organisation, Fingerprint: "x"}
	}
	sum := sha256.Sum256([]byte(n.as.User + "\x00" + n.as.Password))
	return oci.Principal{Organisation: n.as.Organisation, Fingerprint: hex.EncodeToString(sum[:])}
}

func (n *naive) Resolve(ctx context.Context, repo, tag string) (oci.Resolution, error) {
	sent := time.Now()
	res, err := n.ask(ctx, http.MethodHead, repo, "/manifests/"+tag, "")
	if err != nil {
		return oci.Resolution{}, err
	}
	d, err := oci.ParseDigest(res.Header.Get("Docker-Content-Digest"))
	_ = res.Body.Close()
	if err != nil && n.planted != "digest header" || !strings.Contains(res.Header.Get("Content-Type"), "manifest") && !strings.Contains(res.Header.Get("Content-Type"), "index") {
		return n.resolveByGet(ctx, repo, tag, sent)
	}
	return oci.Resolution{
		Descriptor: oci.Descriptor{MediaType: res.Header.Get("Content-Type"), Digest: d, Size: res.ContentLength},
		Outcome:    oci.Outcome{Result: oci.Pass, Asked: sent},
	}, nil
}

func (n *naive) resolveByGet(ctx context.Context, repo, tag string, sent time.Time) (oci.Resolution, error) {
	res, err := n.ask(ctx, http.MethodGet, repo, "/manifests/"+tag, "")
	if err != nil {
		return oci.Resolution{}, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return oci.Resolution{}, n.fault(ctx, err)
	}
	if !json.Valid(data) {
		return oci.Resolution{}, &oci.Error{Class: oci.UpstreamError, Message: "this is no manifest"}
	}
	return oci.Resolution{
		Descriptor: oci.Descriptor{MediaType: res.Header.Get("Content-Type"), Digest: oci.DigestOf(data), Size: int64(len(data)), Data: data},
		Outcome:    oci.Outcome{Result: oci.Pass, Asked: sent},
	}, nil
}

func (n *naive) Stat(ctx context.Context, o oci.Object) (*oci.Content, error) {
	if o.Kind == oci.Manifest {
		c, err := n.Open(ctx, o, oci.Range{})
		if err == nil {
			c.Close()
			c.Body = nil
		}
		return c, err
	}
	rng := "bytes=0-0"
	if n.planted == "stat" {
		rng = ""
	}
	res, err := n.ask(ctx, http.MethodGet, o.Repo, "/blobs/"+o.Digest.String(), rng)
	if err != nil {
		return nil, err
	}
	_ = res.Body.Close()
	_, size := contentRange(res)
	if size < 0 {
		return nil, &oci.Error{Class: oci.UpstreamError, Message: "this proves nothing"}
	}
	return &oci.Content{Descriptor: oci.Descriptor{Digest: o.Digest, Size: size}, Length: 0}, nil
}

// Open tries small objects until they are right, and verifies large ones as
// they pass.
func (n *naive) Open(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	var err error
	for range 3 {
		var c *oci.Content
		c, err = n.openOnce(ctx, o, r)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, errAgain) {
			return nil, err
		}
	}
	return nil, &oci.Error{Class: oci.Corrupt, Message: "it stays wrong", Err: err}
}

var errAgain = errors.New("try again")

func (n *naive) openOnce(ctx context.Context, o oci.Object, r oci.Range) (*oci.Content, error) {
	path, header := "/blobs/", ""
	if o.Kind == oci.Manifest {
		path = "/manifests/"
	} else if r.Bounded() {
		header = rangeHeader(r)
	}
	res, err := n.ask(ctx, http.MethodGet, o.Repo, path+o.Digest.String(), header)
	if err != nil {
		return nil, err
	}
	c := &oci.Content{
		Descriptor: oci.Descriptor{MediaType: res.Header.Get("Content-Type"), Digest: o.Digest, Size: res.ContentLength},
		Outcome:    oci.Outcome{Result: oci.Pass}, Length: res.ContentLength, Body: &checked{n: n, ctx: ctx, body: res.Body, h: o.Digest.Algorithm().Hash(), want: o.Digest},
	}
	if c.MediaType == "" {
		c.MediaType = "application/octet-stream"
	}
	if res.StatusCode == http.StatusPartialContent {
		return c, n.piece(c, res, r)
	}
	if size := res.ContentLength; size >= 0 && size <= 4<<20 || o.Kind == oci.Manifest {
		defer func() { _ = res.Body.Close() }()
		data, err := io.ReadAll(io.LimitReader(c.Body, 4<<20+1))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil || len(data) > 4<<20 {
			return nil, errAgain
		}
		c.Size, c.Length, c.Body = int64(len(data)), int64(len(data)), &closable{Reader: bytes.NewReader(data)}
		if o.Kind == oci.Manifest {
			c.Data, c.Body = data, nil
		}
	}
	return c, nil
}

func rangeHeader(r oci.Range) string {
	switch {
	case r.Start < 0:
		return fmt.Sprintf("bytes=%d", r.Start)
	case r.Length == 0:
		return fmt.Sprintf("bytes=%d-", r.Start)
	}
	return fmt.Sprintf("bytes=%d-%d", r.Start, r.Start+r.Length-1)
}

// piece checks that a part is the one that was asked for.
func (n *naive) piece(c *oci.Content, res *http.Response, r oci.Range) error {
	start, size := contentRange(res)
	wanted, end := span(r, size)
	wrong := size < 0 || start != wanted || res.ContentLength != end-start
	if wrong && n.planted != "content range" {
		_ = res.Body.Close()
		return &oci.Error{Class: oci.Corrupt, Message: "another range came"}
	}
	c.Offset, c.Size = wanted, max(size, -1)
	c.Body.(*checked).want = ""
	return nil
}

func contentRange(res *http.Response) (start, size int64) {
	var end int64
	if k, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-%d/%d", &start, &end, &size); k != 3 || err != nil || res.StatusCode != http.StatusPartialContent {
		return -1, -1
	}
	return start, size
}

func (n *naive) List(ctx context.Context, req oci.ListRequest) (*oci.Page, error) {
	path := "/tags/list"
	if req.Kind == oci.Referrers {
		path = "/referrers/" + req.Digest.String()
	}
	res, err := n.ask(ctx, http.MethodGet, req.Repo, path+"?"+req.Query.Encode(), "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return nil, n.fault(ctx, err)
	}
	p := &oci.Page{MediaType: res.Header.Get("Content-Type"), Body: data, FiltersApplied: res.Header.Get("OCI-Filters-Applied")}
	if link, _, ok := strings.Cut(strings.TrimPrefix(res.Header.Get("Link"), "<"), ">"); ok {
		if u, err := url.Parse(link); err == nil && n.planted != "paging" {
			p.Next = u.RawQuery
		}
	}
	return p, nil
}

// ask sends a request up to three times, with a token where one is wanted.
func (n *naive) ask(ctx context.Context, method, repo, path, rng string) (*http.Response, error) {
	var err error
	for i := range 3 {
		var res *http.Response
		if res, err = n.send(ctx, method, n.reg.URL()+"/v2/"+repo+path, n.authorization(repo), rng, 5); err != nil {
			err = n.fault(ctx, err)
			continue
		}
		if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent {
			return res, nil
		}
		challenge := res.Header.Get("WWW-Authenticate")
		err = n.classify(res)
		if res.StatusCode == http.StatusUnauthorized && i == 0 {
			if err := n.login(ctx, repo, challenge); err != nil {
				return nil, err
			}
			continue
		}
		if res.StatusCode < 500 && n.planted != "retry 429" || n.planted == "no retry" {
			return nil, err
		}
	}
	return nil, err
}

func (n *naive) send(ctx context.Context, method, target, authorization, rng string, hops int) (*http.Response, error) {
	if n.planted == "context" {
		ctx = context.WithoutCancel(ctx)
	}
	hr, err := http.NewRequestWithContext(ctx, method, target, http.NoBody)
	if err != nil {
		return nil, err
	}
	hr.Header.Set("Accept", strings.Join(manifestTypes[:], ", "))
	hr.Header.Set("Accept-Encoding", "identity")
	if authorization != "" {
		hr.Header.Set("Authorization", authorization)
	}
	if rng != "" {
		hr.Header.Set("Range", rng)
	}
	res, err := n.client.Do(hr)
	if err != nil {
		return nil, err
	}
	if res.StatusCode < 300 || res.StatusCode > 399 {
		return res, nil
	}
	location, err := res.Location()
	if err != nil {
		return nil, err
	}
	_ = res.Body.Close()
	if hr.URL.Scheme == "https" && location.Scheme == "http" && n.planted != "downgrade" {
		return nil, errors.New("a redirect from https to http")
	}
	if hops == 0 {
		return nil, errors.New("too many redirects")
	}
	if location.Host != hr.URL.Host && n.planted != "authorization" {
		authorization = ""
	}
	return n.send(ctx, method, location.String(), authorization, rng, hops-1)
}

func (n *naive) authorization(repo string) string {
	tokens := <-n.tokens
	defer func() { n.tokens <- tokens }()
	return tokens[repo]
}

// login gets what the challenge asks for.
func (n *naive) login(ctx context.Context, repo, challenge string) error {
	basic := ""
	if n.as.User != "" {
		hr := http.Request{Header: http.Header{}}
		hr.SetBasicAuth(n.as.User, n.as.Password)
		basic = hr.Header.Get("Authorization")
	}
	value := basic
	if strings.HasPrefix(challenge, "Bearer ") {
		q := url.Values{"service": {service}, "scope": {"repository:" + repo + ":pull"}}
		res, err := n.send(ctx, http.MethodGet, n.reg.TokenURL()+"?"+q.Encode(), basic, "", 0)
		if err != nil {
			return n.fault(ctx, err)
		}
		if res.StatusCode != http.StatusOK {
			e := n.classify(res)
			if res.StatusCode == http.StatusUnauthorized && n.as.User != "" {
				e.Class = oci.Unauthorized
			}
			return e
		}
		defer func() { _ = res.Body.Close() }()
		var token struct {
			Token       string
			AccessToken string `json:"access_token"`
		}
		if err := json.NewDecoder(res.Body).Decode(&token); err != nil {
			return n.fault(ctx, err)
		}
		value = "Bearer " + token.Token + token.AccessToken
	} else if n.as.User == "" {
		return &oci.Error{Class: oci.NoCredential, Message: "no account"}
	}
	tokens := <-n.tokens
	tokens[repo] = value
	n.tokens <- tokens
	return nil
}

// classify makes an error of an answer that is none.
func (n *naive) classify(res *http.Response) *oci.Error {
	_ = res.Body.Close()
	e := &oci.Error{Class: oci.UpstreamError, Message: fmt.Sprintf("the registry said %d", res.StatusCode)}
	switch {
	case res.StatusCode == http.StatusNotFound:
		e.Class = oci.NotFound
	case res.StatusCode == http.StatusTooManyRequests:
		e.Class, e.RetryAfter = oci.RateLimited, 2*time.Minute
	case (res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden) && n.as.User == "" && n.planted != "classes":
		e.Class = oci.NoCredential
	case res.StatusCode == http.StatusForbidden, strings.Contains(res.Header.Get("WWW-Authenticate"), "insufficient_scope"):
		e.Class = oci.Denied
	case res.StatusCode == http.StatusUnauthorized:
		e.Class = oci.Unauthorized
	}
	return e
}

func (n *naive) fault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if n.planted == "secret" {
		return &oci.Error{Class: oci.Unreachable, Message: "unreachable", Err: fmt.Errorf("as %s", n.as.Password+passwordMark)}
	}
	class := oci.UpstreamError
	if strings.Contains(err.Error(), "dial") {
		class = oci.Unreachable
	}
	return &oci.Error{Class: class, Message: "the registry cannot be asked"}
}

// checked verifies a body as it passes.
type checked struct {
	n    *naive
	ctx  context.Context
	body io.ReadCloser
	h    hash.Hash
	want oci.Digest
}

func (c *checked) Read(p []byte) (int, error) {
	k, err := c.body.Read(p)
	c.h.Write(p[:k])
	if errors.Is(err, io.EOF) && c.want != "" && hex.EncodeToString(c.h.Sum(nil)) != c.want.Encoded() && c.n.planted != "digest" {
		return k, errors.New("the digest is wrong")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if c.n.planted == "cut" {
			return k, io.EOF
		}
		err = c.n.fault(c.ctx, err)
	}
	return k, err
}

func (c *checked) Close() error {
	if c.n.planted == "close hangs" {
		_, _ = io.Copy(io.Discard, c.body)
	}
	return c.body.Close()
}

type closable struct {
	*bytes.Reader
	closed bool
}

func (c *closable) Read(p []byte) (int, error) {
	if c.closed {
		return 0, errors.New("closed")
	}
	return c.Reader.Read(p)
}

func (c *closable) Close() error {
	c.closed = true
	return nil
}
