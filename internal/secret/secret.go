// Package secret has the one type for passwords and tokens.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[secret]"

// Text is a password or a token. However it is printed, logged or encoded,
// only "[secret]" comes out; Reveal gives the text itself. The zero Text is
// empty.
//
// The text lies behind a pointer, because package fmt does not call the
// methods of an unexported field: there it prints the address (and for a
// pointer to a string only that, whatever the verb). The array makes == a
// compile error; Equal compares.
type Text struct {
	_    [0]func()
	text *string
}

// New wraps s.
func New(s string) Text { return Text{text: &s} }

// Reveal is the text itself. Whoever calls it answers for where it goes.
func (s Text) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty says whether there is no text.
func (s Text) Empty() bool { return s.Reveal() == "" }

// Equal compares in a time that tells only the length.
func (s Text) Equal(other Text) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String is redacted.
func (s Text) String() string { return redacted }

// GoString is redacted.
func (s Text) GoString() string { return redacted }

// Format is redacted, whatever the verb.
func (s Text) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, redacted) // a fmt.State never fails
}

// LogValue is redacted.
func (s Text) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText is redacted: YAML, XML and map keys go through it.
func (s Text) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON is redacted.
func (s Text) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// UnmarshalText takes the text as it is, so that a configuration may hold a
// Text directly.
func (s *Text) UnmarshalText(text []byte) error {
	*s = New(string(text))
	return nil
}
