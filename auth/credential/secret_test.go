package credential

import (
	"testing"

	"berth/internal/ocitest"
	"berth/internal/secret"
)

func TestCredentials_DoNotPrint(t *testing.T) {
	s := secret.New(canary)
	key := Key{bytes: secret.New(canary)}
	cred := &Credential{Name: "ci", Organisation: "acme", Registry: "ghcr.io", Username: s, Password: s, Fingerprint: "f"}
	values := map[string]any{
		"key": key, "credential": cred, "in a struct": struct{ C *Credential }{cred},
		"by value": *cred, "hidden by value": struct{ c Credential }{*cred},
		"login": Login{Username: s, Password: s}, "entry key": struct{ k Key }{key},
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) { ocitest.NotPrinted(t, v, canary) })
	}
}
