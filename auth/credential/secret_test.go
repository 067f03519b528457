package credential

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

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
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s", "%T", "%p", "%b", "%c", "%U"} {
				fmt.Fprintf(&out, verb, v)
			}
			fmt.Fprint(&out, v)
			fmt.Fprintln(&out, v)
			if b, err := json.Marshal(v); err == nil {
				out.Write(b)
			}
			if b, err := xml.Marshal(v); err == nil {
				out.Write(b)
			}
			slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
			slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
			for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), "99 52 110 52 114 121 45"} {
				if strings.Contains(out.String(), form) {
					t.Errorf("the secret shows as %q in %s", form, out.String())
				}
			}
		})
	}
}
