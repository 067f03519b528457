package secret

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"berth/internal/ocitest"
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
		t.Run(name, func(t *testing.T) { ocitest.NotPrinted(t, v, canary) })
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
