package token

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"go.uber.org/goleak"

	"berth/auth/credential"
	"berth/internal/secret"
	"berth/internal/share"
	"berth/oci"

	"berth/upstream/dialect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func typeNamed(t *testing.T, name string) dialect.Type {
	t.Helper()
	k, ok := dialect.TypeNamed(name)
	if !ok {
		t.Fatalf("no type %s", name)
	}
	return k
}

// testAccount is a credential as a Table makes it.
func testAccount(organisation, name, user, password string) *credential.Credential {
	s := secret.New(password)
	return &credential.Credential{
		Name: name, Organisation: organisation, Registry: "registry.test", Username: secret.New(user), Password: s,
		Fingerprint: credential.Key{}.Fingerprint(oci.Origin{Scheme: "https", Host: "registry.test"}, user, s),
		Version:     credential.Key{}.Fingerprint(oci.Origin{Scheme: "https", Host: "registry.test"}, user, s),
	}
}

func basicHeader(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

const canary = "c4n4ry-s3cret-0123456789"

func pair(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func specBody(code, message string) string {
	return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q,"detail":{"x":[1]}}]}`, code, message)
}

func entryFor(organisation, name, registry string, patterns ...string) credential.Entry {
	return credential.Entry{
		Name: name, Organisation: organisation, Registry: registry, Repositories: patterns,
		Origin: oci.Origin{Scheme: "https", Host: registry},
		Source: credential.Static("user-"+name, secret.New("secret of "+organisation+" "+name)),
	}
}

func mustCredentials(t *testing.T, o credential.TableOptions) *credential.Table {
	t.Helper()
	c, err := credential.NewTable(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// fewTokens keeps n of them, however long they are.
func fewTokens(n int64) *Kept {
	k := NewKept()
	k.tokens = share.New[tokenKey, bearerToken](n, nil)
	return k
}
