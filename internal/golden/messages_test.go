package golden

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/internal/ocitest"
)

// messages has clients pull what fails for each reason, and reads what they read.
func (c *city) messages(t *testing.T) {
	c.pull(c.doors[tokenDoor], "ghcr.io/acme/app", "1", "login", acme)
	c.pull(c.doors[openDoor], "nginx", "1")
	c.pull(c.doors[tokenDoor], "limited.example/app", "1", "login", acme) // callers without an organisation have a share of their own
	c.broken.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusInternalServerError))
	c.lying.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.FlipBit(100))
	layer := c.lying.AddBlob("app", []byte(strings.Repeat("a layer", 100)))
	none := "sha256:" + strings.Repeat("0", 64)

	c.step("", "the version check", openDoor, http.MethodGet, "")
	c.step("", "the version check without a login", tokenDoor, http.MethodGet, "")
	c.step("", "a manifest by tag", openDoor, http.MethodHead, "nginx/manifests/1")
	c.step("", "a manifest that the client has", openDoor, http.MethodGet, "nginx/manifests/1", "If-None-Match", `"`+c.public.Digest.String()+`"`)
	c.step("", "a part of a blob", openDoor, http.MethodGet, "nginx/blobs/"+c.public.Platforms[0].Layers[0].String(), "Range", "bytes=0-9")
	c.step("", "a part that there is not", openDoor, http.MethodGet, "nginx/blobs/"+c.public.Platforms[0].Layers[0].String(), "Range", "bytes=99999-")
	c.step("", "tags", openDoor, http.MethodGet, "nginx/tags/list")
	c.step("", "referrers", openDoor, http.MethodGet, "nginx/referrers/"+c.public.Digest.String())
	c.both("unauthorized", "the registry refuses the account", tokenDoor, "quay.io/acme/app/manifests/1", "login", acme)
	c.both("denied", "the account may not read this", tokenDoor, "ghcr.io/others/app/manifests/1", "login", acme)
	c.both("no_credential", "not public, and nobody asks", openDoor, "ghcr.io/acme/app/manifests/1")
	c.both("no_credential", "not public, and the organisation has no account", tokenDoor, "ghcr.io/acme/app/manifests/1", "login", "globex:door-globex-0123456789abcdef")
	c.both("not_found", "no such tag", openDoor, "nginx/manifests/none")
	c.both("not_found", "no such manifest", openDoor, "nginx/manifests/"+none)
	c.both("not_found", "no such blob", openDoor, "nginx/blobs/"+none)
	c.both("not_found", "no such repository", openDoor, "lying.example/nothing/manifests/1")
	c.step("not_found", "tags of no such repository", openDoor, http.MethodGet, "lying.example/nothing/tags/list")
	c.both("no_credential", "no such repository, where the registry tells only whom it knows", openDoor, "nothing/manifests/1")
	c.step("wrong_platform", "an index without the client's platform", openDoor, http.MethodGet, "amd/manifests/1", "User-Agent", "docker/29.0.1 go/go1.26 kernel/6.1 os/linux arch/arm64")
	c.both("rate_limited", "the pull limit is used up", openDoor, "limited.example/app/manifests/2")
	c.both("unreachable", "nobody listens", openDoor, "dead.example/app/manifests/1")
	c.both("upstream_error", "500 to everything", openDoor, "broken.example/app/manifests/1")
	c.step("corrupt", "the wrong bytes", openDoor, http.MethodGet, "lying.example/app/blobs/"+layer.String())
	c.step("timeout", "no answer", openDoor, http.MethodGet, "silent.example/app/manifests/1")
	c.both("caller", "no login", tokenDoor, "nginx/manifests/1")
	c.both("caller", "a wrong token", tokenDoor, "nginx/manifests/1", "login", "acme:door-acme-wrong")
	c.both("caller", "an unknown organisation", tokenDoor, "nginx/manifests/1", "login", "umbrella:door-acme-wrong")
	c.both("caller", "an account that there is not", tokenDoor, "ghcr.io/acme/app/manifests/1", "login", strings.Replace(acme, "acme:", "acme+none:", 1))
	c.both("caller", "an organisation with a bad drop-in", tokenDoor, "nginx/manifests/1", "login", "broken:door-acme-wrong")
	c.both("policy", "a registry that is not configured", openDoor, "x.example/app/manifests/1")
	c.step("policy", "the same as ?ns=", openDoor, http.MethodGet, "app/manifests/1?ns=x.example")
	c.both("policy", "the name of another organisation", tokenDoor, "globex/ghcr.io/acme/app/manifests/1", "login", acme)
	c.step("policy", "a foreign host name", openDoor, http.MethodGet, "nginx/manifests/1", "Host", "evil.example")
	c.step("policy", "a web page of somebody else's", openDoor, http.MethodGet, "nginx/manifests/1", "Origin", "https://evil.example")
	c.step("", "no name", openDoor, http.MethodGet, "Nginx/manifests/1")
	c.step("", "no digest", openDoor, http.MethodGet, "nginx/blobs/sha256:12")
	c.step("", "no tag", openDoor, http.MethodGet, "nginx/manifests/-wrong-")
	c.step("", "no such endpoint", openDoor, http.MethodGet, "nginx/nothing/1")
	c.step("", "a push", openDoor, http.MethodPost, "nginx/blobs/uploads/")
	c.step("", "a manifest that is pushed", openDoor, http.MethodPut, "nginx/manifests/1")
	c.step("", "a manifest that is deleted", openDoor, http.MethodDelete, "nginx/manifests/1")
	hold(t, "messages", "What a client reads, by class of failure: the request, status, headers, body. All answers have X-Request-Id, X-Content-Type-Options: nosniff, Docker-Distribution-Api-Version: registry/2.0, and a Date.", strings.Join(c.steps, "\n"))
}

// both asks by HEAD, with which clients begin, and then by GET. Where the headers are
// the same the first answer is one line.
func (c *city) both(class, what string, door int, path string, header ...string) {
	c.t.Helper()
	head := c.ask(http.MethodHead, c.doors[door]+"/v2/"+path, header...)
	get := c.ask(http.MethodGet, c.doors[door]+"/v2/"+path, header...)
	if c.note(class, what, http.MethodGet, path, header, get); headers(head) == headers(get) && head.status == get.status {
		c.steps[len(c.steps)-1] += "(and the same to HEAD)\n"
	} else {
		c.note(class, what, http.MethodHead, path, header, head)
	}
}

// step asks once and notes the answer.
func (c *city) step(class, what string, door int, method, path string, header ...string) {
	c.t.Helper()
	c.note(class, what, method, path, header, c.ask(method, c.doors[door]+"/v2/"+path, header...))
}

func (c *city) note(class, what, method, path string, header []string, a answer) {
	c.t.Helper()
	if a.header.Get("X-Request-Id") == "" || a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
		c.t.Errorf("%s %s: headers that all answers have are missing: %v", method, path, a.header)
	}
	var b strings.Builder
	if class != "" {
		what = class + ": " + what
	}
	as := ""
	for i := 0; i+1 < len(header); i += 2 {
		value := header[i+1]
		if header[i] == "login" {
			value, _, _ = strings.Cut(value, ":")
		}
		as += "  " + header[i] + ": " + value
	}
	fmt.Fprintf(&b, "== %s\n%s /v2/%s%s\n%d %s\n%s", what, method, path, as, a.status, http.StatusText(a.status), headers(a))
	switch {
	case a.err != nil:
		b.WriteString("the body does not end well\n")
	case a.status >= 400 && len(a.body) > 0 || strings.HasSuffix(path, "/tags/list") || path == "":
		fmt.Fprintf(&b, "%s\n", strings.TrimSpace(string(a.body)))
	case len(a.body) > 0:
		fmt.Fprintf(&b, "%d bytes\n", len(a.body))
	}
	c.steps = append(c.steps, inSeconds.ReplaceAllString(masked(b.String()), "N s"))
}

var (
	counting  = regexp.MustCompile(`^\d+$`)
	inSeconds = regexp.MustCompile(`\b\d+ s\b`)
)

// headers are those of an answer, without those that all have.
func headers(a answer) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(a.header)) {
		for _, value := range a.header[name] {
			switch {
			case slices.Contains([]string{"Date", "X-Request-Id", "X-Content-Type-Options", "Docker-Distribution-Api-Version"}, name):
				continue
			case name == "Retry-After" && counting.MatchString(value):
				value = "N"
			case name == "Content-Length" && a.status >= 400:
				value = "N" // of a message with an id in it
			}
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	return b.String()
}
