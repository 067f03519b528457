package classify

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

// One row for each quirk of a registry.
func TestClassify(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	acme, bot := testAccount("acme", "ci", "bot", canary), testAccount("", "bot", "u", canary)
	for name, tc := range map[string]struct {
		kind   string
		cred   *credential.Credential
		basic  bool
		object oci.Kind
		status int
		header http.Header
		body   string

		class  oci.Class
		code   oci.Code // as it goes to the client
		says   string
		detail string
		after  time.Duration
	}{
		// 401 and 403
		"Docker Hub: missing or private, anonymous token": {kind: dialect.DockerHub, status: 401, body: specBody("UNAUTHORIZED", "authentication required"), class: oci.NoCredential, code: oci.CodeDenied, says: "no account for registry.test is configured"},
		"Docker Hub: missing or private, token granted":   {kind: dialect.DockerHub, cred: acme, status: 401, body: specBody("UNAUTHORIZED", "authentication required"), class: oci.Denied, code: oci.CodeDenied, says: "may not read acme/app, or there is no such repository"},
		"Quay: existence hidden":                          {kind: dialect.Quay, cred: acme, status: 401, body: specBody("UNAUTHORIZED", "access to the requested resource is not authorized"), class: oci.Denied, code: oci.CodeDenied, says: `denied account "ci" (401)`},
		"Quay: disabled namespace is 405 DENIED":          {kind: dialect.Quay, cred: acme, status: 405, body: specBody("DENIED", "This namespace is disabled"), class: oci.Denied, code: oci.CodeDenied, says: "(405)"},
		"Quay: the same for nobody":                       {kind: dialect.Quay, status: 405, body: specBody("DENIED", "This namespace is disabled"), class: oci.NoCredential, code: oci.CodeDenied},
		"405 for another reason is not passed on":         {cred: acme, status: 405, body: specBody("UNSUPPORTED", "no"), class: oci.UpstreamError, code: oci.CodeUnknown, says: "unexpected status (405)"},
		"Basic: 401 is about the credential":              {cred: acme, basic: true, status: 401, class: oci.Unauthorized, code: oci.CodeDenied, says: `organisation acme: registry.test refused account "ci" (401): its token has expired or the user name is wrong; renew it and pull again`},
		"Basic: 403 is about the repository":              {cred: acme, basic: true, status: 403, class: oci.Denied, code: oci.CodeDenied},
		"ECR: an expired password is 403":                 {cred: acme, basic: true, status: 403, body: specBody("DENIED", "Your authorization token has expired. Reauthenticate and try again."), class: oci.Unauthorized, code: oci.CodeDenied, says: "its token has expired; renew"},
		"ECR: the same as plain text":                     {cred: acme, basic: true, status: 403, body: "Your Authorization Token has expired.", class: oci.Unauthorized, code: oci.CodeDenied},
		"to a token, which was granted for it":            {cred: acme, status: 403, body: specBody("DENIED", "Your authorization token has expired. Reauthenticate and try again."), class: oci.Denied, code: oci.CodeDenied, says: "may not read acme/app"},
		"the same to this node's own account":             {cred: bot, status: 403, body: "Your Authorization Token has expired.", class: oci.NoCredential, code: oci.CodeDenied},
		"GHCR: 403 without a challenge":                   {kind: dialect.GHCR, cred: acme, status: 403, body: specBody("DENIED", "denied"), class: oci.Denied, code: oci.CodeDenied},
		"GHCR: no read:packages":                          {kind: dialect.GHCR, cred: acme, status: 403, body: specBody("DENIED", "permission_denied: read_package"), class: oci.Denied, code: oci.CodeDenied, says: "read:packages"},
		"GCR: denied or may not exist, nobody":            {status: 403, body: specBody("DENIED", "Permission denied or the resource may not exist"), class: oci.NoCredential, code: oci.CodeDenied},
		"this node's own account may not read it":         {cred: bot, status: 401, class: oci.NoCredential, code: oci.CodeDenied},
		"this node's own account is no good":              {cred: bot, basic: true, status: 401, class: oci.Unauthorized, code: oci.CodeDenied, says: `this node: registry.test refused account "bot"`},
		"402 and 451 deny":                                {cred: acme, status: 451, class: oci.Denied, code: oci.CodeDenied, says: "(451)"},
		"a firewall's page":                               {cred: acme, status: 403, header: http.Header{"Content-Type": {"text/html"}}, body: "<html>blocked " + canary, class: oci.Denied, code: oci.CodeDenied, detail: "answered by a web page, perhaps of a proxy or firewall in between"},
		"HEAD has no body":                                {cred: acme, status: 403, class: oci.Denied, code: oci.CodeDenied},

		// 404
		"unknown repository":                {cred: acme, object: oci.Manifest, status: 404, body: specBody("NAME_UNKNOWN", "repository name not known to registry"), class: oci.NotFound, code: oci.CodeNameUnknown, says: "no repository acme/app"},
		"unknown repository, asking a blob": {cred: acme, object: oci.Blob, status: 404, body: specBody("NAME_UNKNOWN", ""), class: oci.NotFound, code: oci.CodeNameUnknown},
		"unknown tag":                       {cred: acme, object: oci.Manifest, status: 404, body: specBody("MANIFEST_UNKNOWN", "manifest unknown"), class: oci.NotFound, code: oci.CodeManifestUnknown},
		"unknown blob":                      {cred: acme, object: oci.Blob, status: 404, body: specBody("BLOB_UNKNOWN", ""), class: oci.NotFound, code: oci.CodeBlobUnknown},
		"Quay: TAG_EXPIRED":                 {kind: dialect.Quay, cred: acme, object: oci.Manifest, status: 404, body: specBody("TAG_EXPIRED", "Tag latest has expired"), class: oci.NotFound, code: oci.CodeManifestUnknown, says: "has expired"},
		"404 to HEAD":                       {object: oci.Manifest, status: 404, class: oci.NotFound, code: oci.CodeManifestUnknown},
		"404 for a blob without a body":     {object: oci.Blob, status: 404, class: oci.NotFound, code: oci.CodeBlobUnknown},
		"404 as a page denies nothing":      {object: oci.Manifest, status: 404, body: "\n <!DOCTYPE html><p>NAME_UNKNOWN", class: oci.NotFound, code: oci.CodeManifestUnknown, detail: "answered by a web page, perhaps of a proxy or firewall in between"},
		"code in lower case":                {object: oci.Manifest, status: 404, body: specBody("name_unknown", ""), class: oci.NotFound, code: oci.CodeNameUnknown},
		"two errors: the first counts":      {object: oci.Manifest, status: 404, body: `{"errors":[{"code":"TAG_EXPIRED"},{"code":"MANIFEST_UNKNOWN"}]}`, class: oci.NotFound, code: oci.CodeManifestUnknown, says: "has expired"},
		"two errors: one takes a right":     {object: oci.Manifest, status: 404, body: `{"errors":[{"code":"MANIFEST_UNKNOWN"},{"code":"NAME_UNKNOWN"}]}`, class: oci.NotFound, code: oci.CodeNameUnknown},
		"a code twice":                      {object: oci.Manifest, status: 404, body: `{"errors":[{"code":"NAME_UNKNOWN","code":"MANIFEST_UNKNOWN"}]}`, class: oci.NotFound, code: oci.CodeNameUnknown},
		"a code twice, the other way":       {object: oci.Manifest, status: 404, body: `{"errors":[{"code":"MANIFEST_UNKNOWN","code":"NAME_UNKNOWN"}]}`, class: oci.NotFound, code: oci.CodeNameUnknown},
		"errors twice":                      {object: oci.Manifest, status: 404, body: `{"errors":[{"code":"NAME_UNKNOWN"}],"errors":[]}`, class: oci.NotFound, code: oci.CodeNameUnknown},
		"keys of another case":              {object: oci.Manifest, status: 404, body: `{"Errors":[{"Code":"NAME_UNKNOWN"}]}`, class: oci.NotFound, code: oci.CodeNameUnknown},
		"a document that ends early":        {object: oci.Manifest, status: 404, body: `{"errors":[{"code":"NAME_UNKNOWN","message":"reposi`, class: oci.NotFound, code: oci.CodeNameUnknown},
		"a code that stands for no code":    {object: oci.Manifest, status: 404, body: `{"errors":[{"message":"code","detail":["code","NAME_UNKNOWN"]}]}`, class: oci.NotFound, code: oci.CodeManifestUnknown},
		"a disabled namespace, twice said":  {kind: dialect.Quay, cred: acme, status: 405, body: `{"errors":[{"code":"UNSUPPORTED","code":"DENIED"}]}`, class: oci.Denied, code: oci.CodeDenied},
		"codes of odd types":                {object: oci.Manifest, status: 404, body: `{"errors":[{"code":7,"message":{}}],"message":[1]}`, class: oci.NotFound, code: oci.CodeManifestUnknown},
		"410":                               {object: oci.Manifest, status: 410, class: oci.NotFound, code: oci.CodeManifestUnknown},
		"400 NAME_INVALID":                  {object: oci.Manifest, status: 400, body: specBody("NAME_INVALID", "invalid repository name"), class: oci.NotFound, code: oci.CodeNameUnknown},
		"400 TAG_INVALID":                   {object: oci.Manifest, status: 400, body: specBody("TAG_INVALID", ""), class: oci.NotFound, code: oci.CodeManifestUnknown},
		"400 without a code":                {object: oci.Manifest, status: 400, body: "bad request", class: oci.UpstreamError, code: oci.CodeUnknown},

		// 429
		"Docker Hub: pull limit, nobody":      {kind: dialect.DockerHub, object: oci.Manifest, status: 429, header: http.Header{"Retry-After": {"2520"}}, body: specBody("TOOMANYREQUESTS", "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"), class: oci.RateLimited, code: oci.CodeTooManyRequests, detail: PullLimit, after: 42 * time.Minute, says: "registry.test limits this node's address (no account connected); it refills in 42 min: connect an account for it, or wait"},
		"Docker Hub: pull limit, account":     {kind: dialect.DockerHub, cred: acme, status: 429, body: specBody("TOOMANYREQUESTS", "You have reached your pull rate limit. You may increase the limit by authenticating and upgrading"), class: oci.RateLimited, code: oci.CodeTooManyRequests, detail: PullLimit, says: `organisation acme: registry.test limits account "ci": wait`},
		"Docker Hub: pull limit, other words": {kind: dialect.DockerHub, status: 429, body: specBody("TOOMANYREQUESTS", "slow down"), class: oci.RateLimited, code: oci.CodeTooManyRequests, detail: PullLimit},
		"Docker Hub: abuse limit":             {kind: dialect.DockerHub, cred: acme, status: 429, header: http.Header{"Retry-After": {"60"}}, body: "Too Many Requests", class: oci.RateLimited, code: oci.CodeTooManyRequests, detail: AbuseLimit, after: time.Minute, says: "is rate-limiting this node's IP address; try again in 60 s"},
		"Docker Hub: abuse limit as a page":   {kind: dialect.DockerHub, status: 429, body: "<html><body>429 Too Many Requests", class: oci.RateLimited, code: oci.CodeTooManyRequests, detail: AbuseLimit},
		"Docker Hub: 429 to HEAD":             {kind: dialect.DockerHub, status: 429, class: oci.RateLimited, code: oci.CodeTooManyRequests, detail: AbuseLimit},
		"GHCR: duration inside the message":   {kind: dialect.GHCR, cred: acme, status: 429, body: specBody("TOOMANYREQUESTS", "retry-after: 880.092µs, allowed: 44000/minute"), class: oci.RateLimited, code: oci.CodeTooManyRequests, after: 880092 * time.Nanosecond},
		"Quay: 429 of nginx, no header":       {kind: dialect.Quay, status: 429, body: "<html>", class: oci.RateLimited, code: oci.CodeTooManyRequests, detail: "answered by a web page, perhaps of a proxy or firewall in between"},
		"Retry-After as a date":               {status: 429, header: http.Header{"Retry-After": {"Sun, 01 Mar 2026 12:05:00 GMT"}}, class: oci.RateLimited, code: oci.CodeTooManyRequests, after: 5 * time.Minute},
		"Retry-After as a date, other clock":  {status: 429, header: http.Header{"Retry-After": {"Sun, 01 Mar 2026 14:05:00 GMT"}, "Date": {"Sun, 01 Mar 2026 14:00:00 GMT"}}, class: oci.RateLimited, code: oci.CodeTooManyRequests, after: 5 * time.Minute},

		// trouble
		"500":                   {cred: acme, status: 500, body: "oops", class: oci.UpstreamError, code: oci.CodeUnknown, says: "in trouble (500)"},
		"503 with Retry-After":  {status: 503, header: http.Header{"Retry-After": {"7"}}, class: oci.UpstreamError, code: oci.CodeUnknown, after: 7 * time.Second},
		"502 as a page":         {status: 502, body: "<html>Bad Gateway</html>", class: oci.UpstreamError, code: oci.CodeUnknown, detail: "answered by a web page, perhaps of a proxy or firewall in between"},
		"408":                   {status: 408, class: oci.Timeout, code: oci.CodeUnknown},
		"a 200 that is none":    {status: 200, class: oci.UpstreamError, code: oci.CodeUnknown},
		"a redirect to nowhere": {status: 302, class: oci.UpstreamError, code: oci.CodeUnknown},
		"a status that is none": {status: 799, class: oci.UpstreamError, code: oci.CodeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.header == nil {
				tc.header = http.Header{}
			}
			e := Answer(Response{
				Registry: "registry.test", Type: typeNamed(t, tc.kind), Credential: tc.cred, Basic: tc.basic, Repo: "acme/app", Kind: tc.object,
				Status: tc.status, Header: tc.header, Body: []byte(tc.body), Now: now,
			})
			ocitest.WantClass(t, e, tc.class)
			if e.WireCode() != tc.code || e.Detail != tc.detail || e.RetryAfter != tc.after || !strings.Contains(e.Message, tc.says) {
				t.Errorf("code %s detail %q after %s message %q\nwant %s %q %s %q", e.WireCode(), e.Detail, e.RetryAfter, e.Message, tc.code, tc.detail, tc.after, tc.says)
			}
			if e.Err == nil || !strings.Contains(e.Err.Error(), fmt.Sprint(tc.status)) {
				t.Errorf("the log does not learn the status: %v", e.Err)
			}
			if strings.Contains(e.Error(), canary) {
				t.Errorf("a body was relayed: %v", e)
			}
			if s := e.HTTPStatus(); s == 405 || s == 401 || s < 400 {
				t.Errorf("status %d goes to the client", s)
			}
		})
	}
}

func TestNoCredentialNamesTheOrganisation(t *testing.T) {
	if m := NoCredential("acme", "ghcr.io", "acme/app").Message; m != "organisation acme has no account for ghcr.io, and acme/app is not public or does not exist: add one to its credentials and pull again" {
		t.Error(m)
	}
}

func TestScrub(t *testing.T) {
	cred := testAccount("acme", "ci", "bot", "short pw")
	b64 := base64Pair("bot", "short pw")
	long := strings.Repeat("a1", 20)
	for in, want := range map[string]string{
		"denied: denied":                                               "denied: denied",
		"your password short pw is":                                    "your password [secret] is",
		"Basic " + b64 + " is bad":                                     "Basic [secret] is bad",
		"pw=" + url.QueryEscape("short pw"):                            "pw=[secret]",
		"token " + long + " bad":                                       "token [...] bad",
		"see https://x.test/a?sig=abc":                                 "see https://x.test/a?...",
		"repository acme/team/app/very/long/name/with/slashes unknown": "repository acme/team/app/very/long/name/with/slashes unknown",
		"a\nb\x00c\u2028d":                                             "a b c d",
		strings.Repeat("x ", 200) + "end":                              strings.TrimSpace(strings.Repeat("x ", 100)),
	} {
		if got := scrub(in, cred); strings.TrimSpace(got) != want {
			t.Errorf("scrub(%q) = %q, want %q", in, got, want)
		}
	}
	// A secret across the cut must not leave a piece of itself.
	if got := scrub(strings.Repeat("y", 4*maxForeign-4)+"short pw", cred); strings.Contains(got, "shor") {
		t.Errorf("a piece of a secret: %q", got)
	}
}

func base64Pair(user, password string) string {
	return strings.TrimPrefix(basicHeader(user, password), "Basic ")
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		header, message string
		want            time.Duration
	}{
		{"", "", 0}, {"0", "", 0}, {"5", "", 5 * time.Second}, {"1.5", "", 1500 * time.Millisecond}, {" 5 ", "", 5 * time.Second},
		{"-5", "", 0}, {"99999999999999999999", "", maxRetryAfter}, {"1e300", "", maxRetryAfter}, {"Inf", "", maxRetryAfter}, {"NaN", "", 0}, {"soon", "", 0},
		{"Sun, 01 Mar 2026 12:00:30 GMT", "", 30 * time.Second}, {"Sun, 01 Mar 2026 11:00:00 GMT", "", 0}, {"Sun, 01 Mar 2099 11:00:00 GMT", "", maxRetryAfter},
		{"Sunday, 01-Mar-26 12:00:30 GMT", "", 30 * time.Second}, {"Sun Mar  1 12:00:30 2026", "", 30 * time.Second},
		{"", "retry-after: 880.092µs, allowed: 44000/minute", 880092}, {"", "Retry-After: 1m30s", 90 * time.Second}, {"", "x retry-after:2s;", 2 * time.Second},
		{"", "retry-after: ", 0}, {"", "retry-after: soon", 0}, {"", "retry-after: -2s", 0}, {"", "retry-after: 9000h", maxRetryAfter},
		{"5", "retry-after: 9s", 5 * time.Second}, {"soon", "retry-after: 9s", 9 * time.Second}, {"NaN", "retry-after: 9s", 9 * time.Second},
	} {
		h := http.Header{}
		if tc.header != "" {
			h.Set("Retry-After", tc.header)
		}
		if got := RetryAfter(h, tc.message, now); got != tc.want {
			t.Errorf("%q %q: %s, want %s", tc.header, tc.message, got, tc.want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("5", "", "")
	f.Add("Sun, 01 Mar 2026 12:00:30 GMT", "Sun, 01 Mar 2026 12:00:30 GMT", "")
	f.Add("", "", "retry-after: 880.092µs, allowed: 44000/minute")
	f.Add("", "", "ȺRETRY-AFTER:")
	f.Add("-1e-400", "", "İİretry-after: 1s")
	f.Fuzz(func(t *testing.T, header, date, message string) {
		h := http.Header{"Retry-After": {header}, "Date": {date}}
		if d := RetryAfter(h, message, time.Unix(1e9, 0)); d < 0 || d > maxRetryAfter {
			t.Fatalf("%q %q %q: %s", header, date, message, d)
		}
	})
}

// FuzzClassify: whatever a registry says, there is an answer in one clean line.
func FuzzClassify(f *testing.F) {
	f.Add(401, "application/json", `{"errors":[{"code":"UNAUTHORIZED","message":"`+canary+`"}]}`)
	f.Add(429, "text/html", "<html>")
	f.Add(404, "", `{"errors":["x",{"code":null}],"details":"y"}`)
	f.Add(403, "", `{"error":"a","error_description":"`+canary+`"}`)
	f.Fuzz(func(t *testing.T, status int, contentType, body string) {
		cred := testAccount("acme", "ci", "bot", canary)
		e := Answer(Response{Registry: "r", Type: dialect.Type{TwoLimits: true}, Credential: cred, Repo: "a", Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body)})
		if e == nil || e.Message == "" || len(e.Message) > 600 || len(e.Err.Error()) > 600 {
			t.Fatalf("no answer, or a long one: %v", e)
		}
		if strings.ContainsAny(e.Error(), "\n\r\x00") || strings.Contains(e.Error(), canary) {
			t.Fatalf("an unclean answer: %q", e)
		}
	})
}

func TestClassifyFailure(t *testing.T) {
	known := &oci.Error{Class: oci.Unreachable, Message: "no connection"}
	for name, tc := range map[string]struct {
		err   error
		class oci.Class
		says  string
	}{
		"deadline":      {fmt.Errorf("asking: %w", context.DeadlineExceeded), oci.Timeout, "registry.test (host.test:443) gave no answer in time"},
		"cancelled":     {fmt.Errorf("asking: %w", context.Canceled), oci.ClientGone, "left"},
		"known already": {fmt.Errorf("x: %w", known), oci.Unreachable, "no connection"},
	} {
		e := Failure("registry.test", "host.test:443", tc.err)
		ocitest.WantClass(t, e, tc.class)
		if !strings.Contains(e.Message, tc.says) {
			t.Errorf("%s: %q", name, e.Message)
		}
	}
	if Failure("r", "h", nil) != nil {
		t.Error("nothing became an error")
	}
}
