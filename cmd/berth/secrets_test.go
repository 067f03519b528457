package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"berth/internal/ocitest"
)

// spellings are the forms in which a secret turns up where it should not.
func spellings(secret string) []string {
	raw := []byte(secret)
	return []string{
		secret,
		base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
		base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
		url.QueryEscape(secret), url.PathEscape(secret),
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		strings.Trim(strconv.Quote(secret), `"`), strings.Trim(fmt.Sprintf("%v", raw), "[]"),
	}
}

// vault is what must not be found anywhere.
type vault struct {
	t       testing.TB
	secrets map[string][]string // spellings by name
}

func (v *vault) add(name, secret string) {
	if len(secret) < 8 {
		v.t.Fatalf("%s is too short to be looked for", name)
	}
	v.secrets[name] = spellings(secret)
}

// search looks for all of them in a place.
func (v *vault) search(where string, text []byte) {
	v.t.Helper()
	for name, all := range v.secrets {
		for _, s := range all {
			if i := bytes.Index(text, []byte(s)); i >= 0 {
				v.t.Errorf("%s is in %s: ...%q", name, where, text[max(0, i-80):min(len(text), i+len(s)+20)])
				break
			}
		}
	}
}

// A node at log level debug, with accounts that work, that are wrong, and at
// registries that repeat what they were sent. After all that, no secret is in
// the log, the metrics, an answer, the cache or what the kernel tells of the
// process.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	v := &vault{t: t, secrets: map[string][]string{}}
	h := newHome(t)
	const good, wrong, echoed = "canary/good+pass=word?&1", "canary:wrong pass\tword", "canary-echoed-\u00fc-password"
	bearer := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true, TokenServer: true, CDN: ocitest.CDNSame, BadPassword: http.StatusForbidden})
	basic := ocitest.New(t, ocitest.Options{Auth: ocitest.Basic, Private: true, TLS: true})
	image := bearer.AddImage("acme/app", "1", ocitest.Image{Platforms: []string{"linux/amd64", "linux/arm64"}, Layers: []int64{5000, 5 << 20}})
	tool := basic.AddImage("acme/tool", "1", ocitest.Image{Layers: []int64{5000}})
	bearer.AddUser("acme-bot", good, "**")
	basic.AddUser("acme-bot", good, "**")
	h.registry("ghcr.io", bearer, fmt.Sprintf("token_endpoints: [%q]", bearer.TokenURL()), "allow_private: [127.0.0.0/8]", "type: ghcr")
	h.registry("reg.test", basic)
	for _, who := range []string{"acme", "globex", "initech"} {
		o := h.tenant(who)
		v.add("the token of "+who, o.token)
		password := map[string]string{"acme": good, "globex": wrong, "initech": echoed}[who]
		for _, registry := range []string{"ghcr.io", "reg.test"} {
			h.credential(who, "ci", registry, who+"-bot", password)
		}
		v.add("the password of "+who, password)
		v.add("the pair of "+who, who+"-bot:"+password)
		v.add("the login of "+who, who+":"+o.token)
	}
	for _, r := range []*ocitest.Registry{bearer, basic} {
		r.Inject(ocitest.Match{Where: func(q ocitest.Request) bool {
			_, password, _ := basicAuth(q.Header)
			return password == echoed
		}}, 0, echo(echoed))
	}

	n := h.run()
	var answers []answer
	pull := func(c *client, name string, i ocitest.Pushed) {
		first := i.Platforms[0]
		for _, path := range []string{"manifests/1", "manifests/" + i.Digest.String(), "manifests/" + first.Manifest.String(), "blobs/" + first.Layers[0].String(), "blobs/" + first.Config.String(), "tags/list", "referrers/" + i.Digest.String(), "manifests/none"} {
			answers = append(answers, c.get("/v2/"+name+"/"+path), c.head("/v2/"+name+"/"+path))
		}
	}
	for _, who := range []string{"acme", "acme+ci", "acme+none", "globex", "initech"} {
		c := h.as(n, who)
		pull(c, "ghcr.io/acme/app", image)
		pull(c, "reg.test/acme/tool", tool)
		c.password += "x"
		answers = append(answers, c.get("/v2/"))
		// People paste secrets into the wrong place.
		c.user, c.password = c.password, "x"
		answers = append(answers, c.get("/v2/"))
	}
	h.as(n, "acme").mustPull("ghcr.io/acme/app", image, "")
	h.as(n, "acme").mustPull("reg.test/acme/tool", tool, "")
	bearer.ExpireRedirects()
	bearer.Inject(ocitest.Match{Server: ocitest.CDNServer}, 3, ocitest.CutAfter(1000, ocitest.CutReset))
	answers = append(answers, h.as(n, "acme").get("/v2/ghcr.io/acme/app/blobs/"+image.Platforms[1].Layers[1].String()))
	bearer.Inject(ocitest.Match{Kind: ocitest.Token}, 0, ocitest.Drop())
	bearer.ExpireTokens()
	answers = append(answers, h.as(n, "acme").get("/v2/ghcr.io/acme/app/manifests/none"))

	for _, r := range bearer.Requests(ocitest.Match{}) {
		if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			v.add("a token of "+r.User, token)
		}
		if q, err := url.ParseQuery(r.Query); err == nil && q.Get("signature") != "" {
			v.add("the signature of a redirect", q.Get("signature"))
		}
	}
	if len(v.secrets) < 14 {
		t.Errorf("there are only %d secrets: not everything happened that should have", len(v.secrets))
	}
	for _, a := range answers {
		v.search("the answer to "+a.what, append([]byte(fmt.Sprint(a.header, a.err)), a.body...))
	}
	v.search("the metrics", []byte(n.metrics()))
	for _, file := range []string{"cmdline", "environ"} {
		v.search(file, must1(os.ReadFile(fmt.Sprintf("/proc/%d/%s", n.process.Pid, file))))
	}
	n.stop()
	v.search("the log", []byte(n.log.String()))
	files := h.files()
	for _, file := range files {
		v.search(file, must1(os.ReadFile(file)))
		v.search("a file's name", []byte(file))
		if info := must1(os.Stat(file)); info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
	}
	if len(files) < 5 || !slices.ContainsFunc(files, func(f string) bool { return strings.HasSuffix(f, "facts.db") }) {
		t.Errorf("the cache has only %v", files)
	}
}

// echo is a refusal that repeats what it was sent, as some registries' errors do.
func echo(secret string) ocitest.Fault {
	return ocitest.Problem(http.StatusForbidden, "DENIED",
		"the password "+secret+" ("+base64.StdEncoding.EncodeToString([]byte("initech-bot:"+secret))+", "+url.QueryEscape(secret)+") is wrong",
		"X-Echo", secret)
}

func basicAuth(h http.Header) (user, password string, ok bool) {
	return (&http.Request{Header: h}).BasicAuth()
}

// must1 is for what cannot fail here.
func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
