package credential

import (
	"encoding/base64"
	"testing"

	"go.uber.org/goleak"

	"berth/internal/secret"
	"berth/oci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testAccount is a credential as a Table makes it.
func testAccount(organisation, name, user, password string) *Credential {
	s := secret.New(password)
	return &Credential{
		Name: name, Organisation: organisation, Registry: "registry.test", Username: secret.New(user), Password: s,
		Fingerprint: Key{}.Fingerprint(oci.Origin{Scheme: "https", Host: "registry.test"}, user, s),
		Version:     Key{}.Fingerprint(oci.Origin{Scheme: "https", Host: "registry.test"}, user, s),
	}
}

const canary = "c4n4ry-s3cret-0123456789"

func pair(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func entryFor(organisation, name, registry string, patterns ...string) Entry {
	return Entry{
		Name: name, Organisation: organisation, Registry: registry, Repositories: patterns,
		Origin: oci.Origin{Scheme: "https", Host: registry},
		Source: Static("user-"+name, secret.New("secret of "+organisation+" "+name)),
	}
}

func mustCredentials(t *testing.T, o TableOptions) *Table {
	t.Helper()
	c, err := NewTable(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
