package secret

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

func TestText_DoesNotPrint(t *testing.T) {
	type holder struct {
		Open   Text
		hidden Text
		nested *struct{ deep Text }
		list   []Text
	}
	s := New(canary)
	values := map[string]any{
		"secret": s, "pointer": &s, "hidden by value": struct{ s Text }{s},
		"holder": holder{Open: s, hidden: s, nested: &struct{ deep Text }{s}, list: []Text{s}},
		"map":    map[string]Text{"a": s}, "error": fmt.Errorf("failed with %v", s), "joined": errors.Join(fmt.Errorf("%s", s)),
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

func TestText_Value(t *testing.T) {
	s := New(canary)
	if s.Reveal() != canary || s.Empty() || !s.Equal(New(canary)) || s.Equal(New("x")) || s.Equal(Text{}) {
		t.Error("a secret does not keep its text")
	}
	if !(Text{}).Empty() || !New("").Empty() || !New("").Equal(Text{}) {
		t.Error("an empty secret is not empty")
	}
	if reflect.TypeFor[Text]().Comparable() {
		t.Error("secrets can be compared with ==, which takes a time that depends on them")
	}
	var u Text
	if err := json.Unmarshal([]byte(`"`+canary+`"`), &u); err != nil || !u.Equal(s) {
		t.Errorf("reading a secret: %v", err)
	}
	if !reflect.DeepEqual(s, u) {
		t.Error("equal secrets are not deeply equal")
	}
}
