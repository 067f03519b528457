// Package zoo is stand-ins for real kinds of registries, each with the sign-in, the
// errors, lists, ranges, redirects, referrers and limits of that kind, and a suite
// that every oci.Source must pass at each of them.
//
// What they do is from documentation and reports; the sources stand beside it. They
// are no copies: what is not known to differ is as the specification has it.
package zoo

import (
	"net/http"
	"strconv"

	"berth/internal/ocitest"
	"berth/oci"
)

// StandIn is a kind of registry.
type StandIn struct {
	// Name is what people call it, and Type what the configuration does.
	Name, Type string
	Options    ocitest.Options
	// Ways are what it answers instead; the first that fits a request is taken.
	Ways []Way
	// NoTags says that it gives no lists of tags, as an error of this class.
	NoTags oci.Class
	// MaxPage is the longest page of tags that it gives; 0: any.
	MaxPage int
	// Fallback says that a signature is found under its tag alone.
	Fallback bool
	// Refused is what an account without rights is told. Unclassified: everyone
	// may read everything.
	Refused oci.Class
	// Limited is how it says that there are too many requests.
	Limited ocitest.Fault
}

// Way is what it answers to some requests.
type Way struct {
	When func(ocitest.Request) bool
	Does ocitest.Fault
}

// fault is what goes wrong with a request, as ocitest.Options want it.
func (s StandIn) fault(q ocitest.Request) ocitest.Fault {
	for _, w := range s.Ways {
		if w.When(q) {
			return w.Does
		}
	}
	return ocitest.Fault{}
}

func page(status int) ocitest.Fault {
	return ocitest.Fault{Status: status, Body: []byte("<html><body>" + http.StatusText(status) + "</body></html>"), Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}}
}

func tooMany(text string, header ...string) ocitest.Fault {
	return ocitest.Problem(http.StatusTooManyRequests, "TOOMANYREQUESTS", text, header...)
}

func of(kind ocitest.Kind) func(ocitest.Request) bool {
	return func(q ocitest.Request) bool { return q.Kind == kind }
}

// longPage is a page of more than n tags.
func longPage(n int) func(ocitest.Request) bool {
	return func(q ocitest.Request) bool {
		asked, err := strconv.Atoi(values(q.Query).Get("n"))
		return q.Kind == ocitest.Tags && err == nil && asked > n
	}
}

// StandIns are all of them.
func StandIns() []StandIn {
	return append(hosted(), ownOnes()...)
}

func hosted() []StandIn {
	return []StandIn{
		{
			// docs.docker.com/docker-hub/usage: limits by account, told on each answer;
			// 401 insufficient_scope also for what is not there.
			Name: "Docker Hub", Type: "dockerhub", Refused: oci.Denied,
			Options: ocitest.Options{Auth: ocitest.Bearer, TokenServer: true, CDN: ocitest.CDNSame, PullLimit: 200, TokenShape: ocitest.TokenBoth},
			Limited: tooMany("You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"),
		},
		{
			// artifacthub/hub#4785: referrers are sent to the web site (303), or are 404
			// (rtvkiz/minimal#7). A dead
			// token is 403 at the token endpoint; the wait of a 429 is in its text.
			Name: "GitHub (GHCR)", Type: "ghcr", Refused: oci.Denied, Fallback: true,
			Options: ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseAtToken, BadPassword: http.StatusForbidden, CDN: ocitest.CDNSame, TokenShape: ocitest.TokenOnly},
			Ways:    []Way{{of(ocitest.Referrers), ocitest.Status(http.StatusSeeOther, "Location", "/-/v2/packages/container/package/acme%2Fapp%2Freferrers%2Fsha256")}},
			Limited: tooMany("retry-after: 42.5s, allowed: 44000/minute"),
		},
		{
			// The token endpoint is on the API's host and has no POST; distribution
			// without referrers.
			Name: "DigitalOcean", Type: "digitalocean", Refused: oci.Denied, Fallback: true,
			Options: ocitest.Options{Auth: ocitest.Bearer, TokenServer: true, NoReferrers: true, CDN: ocitest.CDNSame},
			Limited: tooMany("too many requests", "Retry-After", "30"),
		},
		{
			// quay/quay#2884 by way of go-containerregistry#1963: 413 to long pages.
			// 429 is of its nginx, a page without Retry-After.
			Name: "Quay", Type: "quay", Refused: oci.Denied, MaxPage: 100,
			Options: ocitest.Options{Auth: ocitest.Bearer, TokenShape: ocitest.TokenOnly, CDN: ocitest.CDNSame},
			Ways:    []Way{{longPage(100), ocitest.Problem(http.StatusRequestEntityTooLarge, "TOO_MANY_TAGS_REQUESTED", "Too many tags requested; requested limit is too high, max is 100")}},
			Limited: page(http.StatusTooManyRequests),
		},
		{
			// lstags#222: 401 for a list without ecr:ListImages. No
			// digest in headers; layers are at S3.
			Name: "Amazon (ECR)", Refused: oci.Denied, NoTags: oci.Denied,
			Options: ocitest.Options{Auth: ocitest.Basic, Refusal: ocitest.RefuseForbidden, CDN: ocitest.CDNSame},
			Ways: []Way{
				{of(ocitest.Tags), ocitest.Status(http.StatusUnauthorized, "WWW-Authenticate", `Basic realm="https://ecr.test/",service="ecr.amazonaws.com"`)},
				{of(ocitest.Manifest), ocitest.NoHeader("Docker-Content-Digest")},
			},
			Limited: tooMany("Rate exceeded"),
		},
		{
			// Azure/acr#600, #676: a list wants metadata_read, which pulling does not.
			Name: "Azure (ACR)", Refused: oci.Denied, NoTags: oci.Denied,
			Options: ocitest.Options{Auth: ocitest.Bearer, TokenShape: ocitest.AccessTokenOnly, CDN: ocitest.CDNSame},
			Ways:    []Way{{of(ocitest.Tags), ocitest.Problem(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required, visit https://aka.ms/acr/authorization for more information.")}},
			Limited: tooMany("too many requests", "Retry-After", "5"),
		},
		{
			// cloud.google.com/artifact-registry/docs/docker/authentication
			Name: "Google (Artifact Registry)", Refused: oci.Denied,
			Options: ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseForbidden, TokenShape: ocitest.TokenBoth},
			Limited: tooMany("Quota exceeded for quota metric 'Requests per project per region'"),
		},
		{
			// docs.gitlab.com/user/packages/dependency_proxy: manifests are redirected too.
			Name: "GitLab", Refused: oci.Denied, Fallback: true,
			Options: ocitest.Options{Auth: ocitest.Bearer, TokenServer: true, CDN: ocitest.CDNSame, ManifestRedirect: true, NoReferrers: true},
			Limited: ocitest.Fault{Status: http.StatusTooManyRequests, Body: []byte("Retry later\n"), Header: http.Header{"Content-Type": {"text/plain"}, "Retry-After": {"20"}}},
		},
	}
}

func ownOnes() []StandIn {
	return []StandIn{
		{
			// goharbor/harbor, v2auth: Basic to whoever shows a token without the right.
			Name: "Harbor", Refused: oci.Denied,
			Options: ocitest.Options{Auth: ocitest.Bearer, TokenShape: ocitest.TokenBoth},
			Ways: []Way{{
				func(q ocitest.Request) bool { return q.User == Guest && q.Repo != "" && q.Kind != ocitest.Token },
				ocitest.Problem(http.StatusUnauthorized, "UNAUTHORIZED", "unauthorized to access repository", "WWW-Authenticate", `Basic realm="harbor"`),
			}},
			Limited: page(http.StatusTooManyRequests),
		},
		{
			// terraform#35370: 401 to a good account; nexus-public#1011: Link.
			Name: "Nexus", Refused: oci.Denied, Fallback: true,
			Options: ocitest.Options{Auth: ocitest.Basic, LinkBase: "http://inside:8081/repository/docker"},
			Ways:    []Way{{of(ocitest.Referrers), page(http.StatusBadRequest)}},
			Limited: page(http.StatusTooManyRequests),
		},
		{
			// bottlerocket#4709: a Range fails. Referrers since 7.90.1 (jfrog.com/help).
			Name: "Artifactory", Refused: oci.Denied,
			Options: ocitest.Options{Auth: ocitest.Bearer, Refusal: ocitest.RefuseForbidden},
			Ways:    []Way{{func(q ocitest.Request) bool { return q.Kind == ocitest.Blob && q.Range != "" }, ocitest.Status(http.StatusRequestedRangeNotSatisfiable)}},
			Limited: tooMany("rate limit", "Retry-After", "10"),
		},
		{
			// gitea#19704: no such path, in plain text.
			Name: "Gitea", Refused: oci.Denied, Fallback: true,
			Options: ocitest.Options{Auth: ocitest.Bearer, TokenShape: ocitest.TokenOnly},
			Ways: []Way{{of(ocitest.Referrers), ocitest.Fault{
				Status: http.StatusNotFound, Body: []byte("Not found.\n"), Header: http.Header{"Content-Type": {"text/plain;charset=utf-8"}},
			}}},
			Limited: tooMany("too many requests"),
		},
		{
			// moby#15173, #31318: what a server of files makes of a folder.
			Name: "static files", Fallback: true, NoTags: oci.NotFound,
			Options: ocitest.Options{NoRange: true},
			Ways: []Way{
				{of(ocitest.Ping), page(http.StatusNotFound)}, {of(ocitest.Tags), page(http.StatusNotFound)}, {of(ocitest.Referrers), page(http.StatusNotFound)},
				{func(q ocitest.Request) bool { return q.Kind == ocitest.Manifest && q.Method == http.MethodHead }, ocitest.Status(http.StatusMethodNotAllowed)},
				{of(ocitest.Manifest), ocitest.Fault{Header: http.Header{"Content-Type": {"text/plain"}, "Docker-Content-Digest": nil}}},
				{of(ocitest.Blob), ocitest.Header("Content-Type", "text/html")},
			},
			Limited: page(http.StatusTooManyRequests),
		},
	}
}
