package classify

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"berth/internal/secret"
	"berth/oci"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// wantClass fails unless err is an *oci.Error of class.
func wantClass(t *testing.T, err error, class oci.Class) {
	t.Helper()
	_ = asClass(t, err, class)
}

func basicHeader(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// asClass is wantClass, and gives the error (or an empty one).
func asClass(t *testing.T, err error, class oci.Class) *oci.Error {
	t.Helper()
	e, ok := err.(*oci.Error) //nolint:errorlint // exactly that type is promised
	if !ok {
		t.Errorf("error %v (%T), want an *oci.Error of class %s", err, err, class)
		return &oci.Error{}
	}
	if e.Class != class {
		t.Errorf("class %s, want %s: %v", e.Class, class, err)
	}
	if e.Message == "" || strings.ContainsAny(e.Message, "\n\r") {
		t.Errorf("message %q is empty or has several lines", e.Message)
	}
	return e
}

const canary = "c4n4ry-s3cret-0123456789"

func specBody(code, message string) string {
	return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q,"detail":{"x":[1]}}]}`, code, message)
}
