package bucket

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The token service is asked once for as long as its role is good for, with the token that
// lies in the file then. What it says instead of one is told by its code alone.
func TestRole_OfAServiceAccount(t *testing.T) {
	const good = `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA</AccessKeyId>` +
		`<SecretAccessKey>canary-secret</SecretAccessKey><SessionToken>canary-session</SessionToken><Expiration>UNTIL</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`
	for name, c := range map[string]struct {
		status int
		body   string
		err    string // empty: it works
	}{
		"good":       {200, good, ""},
		"refused":    {400, `<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>canary-token</Message></Error></ErrorResponse>`, "400 InvalidIdentityToken"},
		"odd code":   {403, `<ErrorResponse><Error><Code>canary token</Code></Error></ErrorResponse>`, "it answered 403"},
		"a page":     {502, "<html>canary", "it answered 502"},
		"no key":     {200, strings.Replace(good, "ASIA", "", 1), "no access key"},
		"no end":     {200, strings.Replace(good, "UNTIL", "", 1), "no access key"},
		"too long":   {200, "<x>" + strings.Repeat("canary", maxAnswer) + "</x>", "no access key"},
		"a redirect": {307, "", "it answered 307"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []url.Values
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := r.ParseForm(); err != nil {
					t.Error(err)
				}
				asked = append(asked, r.PostForm)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, strings.Replace(c.body, "UNTIL", time.Now().Add(time.Hour).UTC().Format(time.RFC3339), 1))
			}))
			defer s.Close()
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte("canary-token\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/berth")
			t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
			t.Setenv("AWS_ENDPOINT_URL_STS", s.URL)
			p := role()
			for range 2 {
				k, err := p.Retrieve(t.Context())
				switch {
				case c.err == "" && (err != nil || k.AccessKeyID != "ASIA" || k.SessionToken != "canary-session" || time.Until(k.Expires) > time.Hour):
					t.Errorf("%+v, %v", k, err)
				case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "canary")):
					t.Errorf("%v, want %q", err, c.err)
				}
			}
			if want := map[bool]int{true: 1, false: 2}[c.err == ""]; len(asked) != want {
				t.Errorf("asked %d times, want %d", len(asked), want)
			}
			if a := asked[0]; a.Get("WebIdentityToken") != "canary-token" || a.Get("RoleSessionName") != "berth" || a.Get("Action") != "AssumeRoleWithWebIdentity" {
				t.Errorf("asked for %v", a)
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if _, err := machine(http.DefaultClient).Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "AWS_WEB_IDENTITY_TOKEN_FILE") {
				t.Errorf("without the token: %v", err)
			}
		})
	}
}

// The service of a region is asked there, which is the only one that is there in China.
func TestRole_OfAServiceAccountInARegion(t *testing.T) {
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/berth")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
	for region, want := range map[string]string{
		"": "https://sts.us-east-1.amazonaws.com/", "eu-central-1": "https://sts.eu-central-1.amazonaws.com/", "cn-north-1": "https://sts.cn-north-1.amazonaws.com.cn/",
	} {
		t.Setenv("AWS_REGION", region)
		if p, ok := newWebIdentity(http.DefaultClient).(webIdentity); !ok || p.endpoint != want {
			t.Errorf("%q: %+v", region, p)
		}
	}
}
