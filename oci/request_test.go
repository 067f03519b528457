package oci_test

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"berth/oci"
)

const (
	hex64  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	hex128 = hex64 + hex64
	sha    = "sha256:" + hex64
)

func TestParseRequest(t *testing.T) {
	for target, want := range map[string]oci.Request{
		"/v2/":                   {Endpoint: oci.EndpointPing},
		"/v2":                    {Endpoint: oci.EndpointPing},
		"/v2/?":                  {Endpoint: oci.EndpointPing},
		"/ghcr.io/v2/":           {Endpoint: oci.EndpointPing, Prefix: "ghcr.io"},
		"/ghcr.io/v2":            {Endpoint: oci.EndpointPing, Prefix: "ghcr.io"},
		"/v2/nginx/manifests/v1": {Endpoint: oci.EndpointManifest, Name: "nginx", Tag: "v1"},
		"/v2/acme/ghcr.io/acme/app/manifests/V1_x": {Endpoint: oci.EndpointManifest, Name: "acme/ghcr.io/acme/app", Tag: "V1_x"},
		"/v2/nginx/manifests/" + sha:               {Endpoint: oci.EndpointManifest, Name: "nginx", Digest: sha},
		"/v2/nginx/blobs/" + sha:                   {Endpoint: oci.EndpointBlob, Name: "nginx", Digest: sha},
		"/v2/nginx/blobs/sha512:" + hex128:         {Endpoint: oci.EndpointBlob, Name: "nginx", Digest: "sha512:" + hex128},
		"/v2/nginx/tags/list":                      {Endpoint: oci.EndpointTags, Name: "nginx"},
		"/v2/nginx/referrers/" + sha:               {Endpoint: oci.EndpointReferrers, Name: "nginx", Digest: sha},
		"/acme/ghcr.io/v2/app/blobs/" + sha:        {Endpoint: oci.EndpointBlob, Prefix: "acme/ghcr.io", Name: "app", Digest: sha},

		// Names may hold the words of endpoints, and a later /v2/ is part of a name.
		"/v2/blobs/manifests/tags/list":     {Endpoint: oci.EndpointTags, Name: "blobs/manifests"},
		"/v2/a/manifests/manifests/x":       {Endpoint: oci.EndpointManifest, Name: "a/manifests", Tag: "x"},
		"/v2/acme/v2/app/manifests/x":       {Endpoint: oci.EndpointManifest, Name: "acme/v2/app", Tag: "x"},
		"/v2/a/manifests/list":              {Endpoint: oci.EndpointManifest, Name: "a", Tag: "list"},
		"/v2/app/manifests/sha256-" + hex64: {Endpoint: oci.EndpointManifest, Name: "app", Tag: "sha256-" + hex64},

		// Only the colon of a digest and the slashes of a name may be escaped.
		"/v2/team%2Fapp/manifests/x":         {Endpoint: oci.EndpointManifest, Name: "team/app", Tag: "x"},
		"/v2/ghcr.io%2fteam%2Fapp/tags/list": {Endpoint: oci.EndpointTags, Name: "ghcr.io/team/app"},
		"/v2/nginx/blobs/sha256%3A" + hex64:  {Endpoint: oci.EndpointBlob, Name: "nginx", Digest: sha},
		"/v2/nginx/blobs/sha256%3a" + hex64:  {Endpoint: oci.EndpointBlob, Name: "nginx", Digest: sha},

		"/v2/nginx/manifests/v1?ns=docker.io":     {Endpoint: oci.EndpointManifest, Name: "nginx", Tag: "v1", NS: "docker.io", Query: url.Values{}},
		"/v2/nginx/manifests/v1?ns=":              {Endpoint: oci.EndpointManifest, Name: "nginx", Tag: "v1", Query: url.Values{}},
		"/v2/nginx/manifests/v1?ns=reg.test%3A50": {Endpoint: oci.EndpointManifest, Name: "nginx", Tag: "v1", NS: "reg.test:50", Query: url.Values{}},
		"/v2/a/tags/list?n=2&last=x&ns=ghcr.io":   {Endpoint: oci.EndpointTags, Name: "a", NS: "ghcr.io", Query: url.Values{"n": {"2"}, "last": {"x"}}},
		"/v2/a/referrers/" + sha + "?artifactType=a%2Fb": {
			Endpoint: oci.EndpointReferrers, Name: "a", Digest: sha, Query: url.Values{"artifactType": {"a/b"}},
		},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			got, err := oci.ParseRequest(method, parseURL(t, target))
			if err != nil {
				t.Errorf("%s %s: %v", method, target, err)
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%s %s:\n got %+v\nwant %+v", method, target, got, want)
			}
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	long := strings.Repeat("a/", 127) + "ab" // 256 bytes
	for target, want := range map[string]struct {
		status int
		code   oci.Code
	}{
		"/":                               {404, oci.CodeUnsupported},
		"/index.html":                     {404, oci.CodeUnsupported},
		"/v1/_ping":                       {404, oci.CodeUnsupported},
		"/v20/a/manifests/x":              {404, oci.CodeUnsupported},
		"//v2/a/manifests/x":              {404, oci.CodeUnsupported},
		"/v2/_catalog":                    {404, oci.CodeUnsupported},
		"/v2/a":                           {404, oci.CodeUnsupported},
		"/v2/a/":                          {404, oci.CodeUnsupported},
		"/v2//":                           {404, oci.CodeUnsupported},
		"/v2/a/tags/":                     {404, oci.CodeUnsupported},
		"/v2/a/tags/list/":                {404, oci.CodeUnsupported},
		"/v2/a/tags/all":                  {404, oci.CodeUnsupported},
		"/v2/a/blobs/uploads/":            {404, oci.CodeUnsupported},
		"/v2/a/blobs/uploads/1234":        {404, oci.CodeUnsupported},
		"/v2/a/manifests/x/":              {404, oci.CodeUnsupported},
		"/v2/a/layers/" + sha:             {404, oci.CodeUnsupported},
		"/v2/a/manifests/../blobs/" + sha: {400, oci.CodeNameInvalid},

		"/v2/manifests/x":                  {400, oci.CodeNameInvalid},
		"/v2//manifests/x":                 {400, oci.CodeNameInvalid},
		"/v2/A/manifests/x":                {400, oci.CodeNameInvalid},
		"/v2/acme/Nginx/manifests/x":       {400, oci.CodeNameInvalid},
		"/v2/../manifests/x":               {400, oci.CodeNameInvalid},
		"/v2/a/../b/manifests/x":           {400, oci.CodeNameInvalid},
		"/v2/a/./b/manifests/x":            {400, oci.CodeNameInvalid},
		"/v2/a//b/manifests/x":             {400, oci.CodeNameInvalid},
		"/v2/-a/manifests/x":               {400, oci.CodeNameInvalid},
		"/v2/a..b/manifests/x":             {400, oci.CodeNameInvalid},
		"/v2/a___b/manifests/x":            {400, oci.CodeNameInvalid},
		"/v2/a b/manifests/x":              {400, oci.CodeNameInvalid},
		"/v2/a%20b/manifests/x":            {400, oci.CodeNameInvalid},
		"/v2/a%00/manifests/x":             {400, oci.CodeNameInvalid},
		"/v2/reg.test:5000/a/manifests/x":  {400, oci.CodeNameInvalid},
		"/v2/reg.test%3a50/a/manifests/x":  {400, oci.CodeNameInvalid},
		"/v2/\u00e4/manifests/x":           {400, oci.CodeNameInvalid},
		"/v2/" + long + "/manifests/x":     {400, oci.CodeNameInvalid},
		"/Ghcr.io/v2/a/manifests/x":        {400, oci.CodeNameInvalid},
		"/../v2/a/manifests/x":             {400, oci.CodeNameInvalid},
		"/a/../v2/":                        {400, oci.CodeNameInvalid},
		"/a//v2/":                          {400, oci.CodeNameInvalid},
		"/v2/a%2F..%2Fb/manifests/x":       {400, oci.CodeNameInvalid},
		"/v2/a%2F%2Fb/manifests/x":         {400, oci.CodeNameInvalid},
		"/v2/%61/manifests/x":              {400, oci.CodeNameInvalid},
		"/%76%32/a/manifests/x":            {400, oci.CodeNameInvalid},
		"/v2/a/%6danifests/x":              {400, oci.CodeNameInvalid},
		"/v2/%2e%2e/manifests/x":           {400, oci.CodeNameInvalid},
		"/v2/a/blobs/sha256%3A%65" + hex64: {400, oci.CodeNameInvalid},

		"/v2/a/manifests/.x":                          {400, oci.CodeManifestInvalid},
		"/v2/a/manifests/-x":                          {400, oci.CodeManifestInvalid},
		"/v2/a/manifests/x+y":                         {400, oci.CodeManifestInvalid},
		"/v2/a/manifests/..":                          {400, oci.CodeManifestInvalid},
		"/v2/a/manifests/":                            {400, oci.CodeManifestInvalid},
		"/v2/a/manifests/" + strings.Repeat("t", 129): {400, oci.CodeManifestInvalid},

		"/v2/a/manifests/sha256:baddigeststring":           {400, oci.CodeDigestInvalid},
		"/v2/a/manifests/:" + hex64:                        {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/" + hex64:                             {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/latest":                               {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/..":                                   {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/sha256:" + strings.ToUpper(hex64):     {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/SHA256:" + hex64:                      {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/sha256:" + hex64[1:]:                  {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/sha512:" + hex64:                      {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/sha384:" + hex64 + hex64[:32]:         {400, oci.CodeDigestInvalid},
		"/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e": {400, oci.CodeDigestInvalid},
		"/v2/a/referrers/latest":                           {400, oci.CodeDigestInvalid},

		"/v2/a/tags/list?ns=a&ns=b":                    {400, oci.CodeNameInvalid},
		"/v2/a/tags/list?n=%zz":                        {400, oci.CodeUnsupported},
		"/v2/a/tags/list?a;b":                          {400, oci.CodeUnsupported},
		"/v2/a/tags/list?" + strings.Repeat("x", 4097): {400, oci.CodeUnsupported},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			got, err := oci.ParseRequest(method, parseURL(t, target))
			checkRefusal(t, method+" "+target, err, want.status, want.code)
			if !reflect.DeepEqual(got, oci.Request{}) {
				t.Errorf("%s %s: refused, but parsed as %+v", method, target, got)
			}
		}
	}
}

// Whatever writes is 405, which clients show as "unsupported" without trying again.
func TestParseRequestWrites(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "get", "PROPFIND"} {
		for _, target := range []string{
			"/v2/", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/1?digest=" + sha, "/v2/a/manifests/x", "/v2/a/blobs/" + sha,
			"/v2/a/blobs/uploads/?mount=" + sha + "&from=b", "/ghcr.io/v2/a/tags/list",
		} {
			_, err := oci.ParseRequest(method, parseURL(t, target))
			checkRefusal(t, method+" "+target, err, http.StatusMethodNotAllowed, oci.CodeUnsupported)
		}
		_, err := oci.ParseRequest(method, parseURL(t, "/elsewhere"))
		checkRefusal(t, method+" /elsewhere", err, http.StatusNotFound, oci.CodeUnsupported)
	}
}

// A client's bytes come back in messages, but shortened and on one line.
func TestParseRequestMessages(t *testing.T) {
	for _, path := range []string{"/v2/a\nb/manifests/x", "/v2/a/manifests/x\r\nSet-Cookie: y", "/v2/" + strings.Repeat("A", 10_000) + "/manifests/x", "/v2/a/blobs/\x9b31m"} {
		_, err := oci.ParseRequest(http.MethodGet, &url.URL{Path: path})
		e, ok := errors.AsType[*oci.Error](err)
		if !ok {
			t.Errorf("%.40q: error %v is no *oci.Error", path, err)
			continue
		}
		if len(e.Message) == 0 || len(e.Message) > 400 || strings.ContainsAny(e.Message, "\r\n") || strings.Contains(e.Message, "\x9b") {
			t.Errorf("%.40q: message %q", path, e.Message)
		}
	}
}

func checkRefusal(t *testing.T, what string, err error, status int, code oci.Code) {
	t.Helper()
	e, ok := errors.AsType[*oci.Error](err)
	if !ok {
		t.Errorf("%.100s: error %v is no *oci.Error", what, err)
		return
	}
	if e.HTTPStatus() != status || e.WireCode() != code || e.Message == "" {
		t.Errorf("%.100s: %d %s %q; want %d %s", what, e.HTTPStatus(), e.WireCode(), e.Message, status, code)
	}
}

func parseURL(t *testing.T, target string) *url.URL {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if strings.Contains(target, "%zz") || strings.Contains(target, "a b") || err != nil {
		path, query, _ := strings.Cut(target, "?")
		return &url.URL{Path: path, RawQuery: query}
	}
	return u
}

func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{
		"/v2/", "/v2", "/ghcr.io/v2/a/b/manifests/latest", "/v2/a/blobs/" + sha, "/v2/a/blobs/sha256%3A" + hex64, "/v2/a/tags/list?n=1&ns=b",
		"/v2/a/referrers/sha512:" + hex128, "/v2/a%2fb/manifests/x", "//v2/x/y", "/v2/../v2/a/manifests/x", "*", "", "/v2/a/manifests/%00", "/v2/%ff/manifests/x",
	} {
		f.Add("GET", s)
		f.Add("PUT", s)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r, err := oci.ParseRequest(method, u)
		if err != nil {
			if e, ok := errors.AsType[*oci.Error](err); !ok || e.HTTPStatus() < 400 || e.HTTPStatus() > 405 || e.Message == "" {
				t.Fatalf("%q: error %#v", target, err)
			}
			return
		}
		if method != http.MethodGet && method != http.MethodHead {
			t.Fatalf("%s %q was accepted", method, target)
		}
		checkRequest(t, r)
		again, err := oci.ParseRequest(method, parseURL(t, spell(r)))
		if err != nil || !same(again, r) {
			t.Fatalf("%q is %+v; written as %q it is %+v, %v", target, r, spell(r), again, err)
		}
	})
}

// checkRequest holds what was accepted to the reference grammar.
func checkRequest(t *testing.T, r oci.Request) {
	t.Helper()
	if r.Prefix != "" && (!oci.ValidName(r.Prefix) || !referenceName(r.Prefix)) {
		t.Fatalf("prefix %q was accepted", r.Prefix)
	}
	if r.Endpoint == oci.EndpointPing {
		if r.Name != "" || r.Tag != "" || r.Digest != "" {
			t.Fatalf("a ping with more: %+v", r)
		}
		return
	}
	if !oci.ValidName(r.Name) || !referenceName(r.Name) {
		t.Fatalf("name %q was accepted", r.Name)
	}
	if r.Digest != "" && r.Digest.Validate() != nil {
		t.Fatalf("digest %q was accepted", r.Digest)
	}
	if r.Tag != "" && !referenceTag(r.Tag) {
		t.Fatalf("tag %q was accepted", r.Tag)
	}
	one, both := r.Tag != "" || r.Digest != "", r.Tag != "" && r.Digest != ""
	if both || one == (r.Endpoint == oci.EndpointTags) {
		t.Fatalf("endpoint %d with tag %q and digest %q", r.Endpoint, r.Tag, r.Digest)
	}
}

// spell writes a Request as a request line.
func spell(r oci.Request) string {
	s := "/v2/" + r.Name
	if r.Prefix != "" {
		s = "/" + r.Prefix + s
	}
	switch r.Endpoint {
	case oci.EndpointManifest:
		s += "/manifests/" + r.Tag + r.Digest.String()
	case oci.EndpointBlob:
		s += "/blobs/" + r.Digest.String()
	case oci.EndpointTags:
		s += "/tags/list"
	case oci.EndpointReferrers:
		s += "/referrers/" + r.Digest.String()
	}
	q := url.Values{}
	maps.Copy(q, r.Query)
	if r.NS != "" {
		q.Set("ns", r.NS)
	}
	if len(q) > 0 {
		s += "?" + q.Encode()
	}
	return s
}

func same(a, b oci.Request) bool {
	equal := len(a.Query) == len(b.Query) && (len(a.Query) == 0 || reflect.DeepEqual(a.Query, b.Query))
	a.Query, b.Query = nil, nil
	return equal && reflect.DeepEqual(a, b)
}
