package auth

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

const canary = "c4n4ry-s3cret-0123456789"

func TestSecretDoesNotPrint(t *testing.T) {
	type holder struct {
		Open   Secret
		hidden Secret
		nested *struct{ deep Secret }
		list   []Secret
	}
	s := NewSecret(canary)
	key := Key{bytes: NewSecret(canary)}
	cred := &Credential{Name: "ci", Organisation: "acme", Registry: "ghcr.io", Username: s, Password: s, Fingerprint: "f"}
	values := map[string]any{
		"secret": s, "pointer": &s, "key": key, "credential": cred, "in a struct": struct{ C *Credential }{cred},
		"by value": *cred, "hidden by value": struct{ c Credential }{*cred},
		"holder": holder{Open: s, hidden: s, nested: &struct{ deep Secret }{s}, list: []Secret{s}}, "login": Login{Username: s, Password: s}, "entry key": struct{ k Key }{key},
		"map": map[string]Secret{"a": s}, "error": fmt.Errorf("failed with %v", s), "joined": errors.Join(fmt.Errorf("%s", s)),
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

func TestSecretValue(t *testing.T) {
	s := NewSecret(canary)
	if s.Reveal() != canary || s.Empty() || !s.Equal(NewSecret(canary)) || s.Equal(NewSecret("x")) || s.Equal(Secret{}) {
		t.Error("a secret does not keep its text")
	}
	if !(Secret{}).Empty() || !NewSecret("").Empty() || !NewSecret("").Equal(Secret{}) {
		t.Error("an empty secret is not empty")
	}
	if reflect.TypeFor[Secret]().Comparable() {
		t.Error("secrets can be compared with ==, which takes a time that depends on them")
	}
	var u Secret
	if err := json.Unmarshal([]byte(`"`+canary+`"`), &u); err != nil || !u.Equal(s) {
		t.Errorf("reading a secret: %v", err)
	}
	if !reflect.DeepEqual(s, u) {
		t.Error("equal secrets are not deeply equal")
	}
}
