package oci

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxEntries bounds the elements of all lists that DecodeJSON keeps of a document, and
// the keys of the objects that are open at once. An entry of a manifest with its media
// type, digest and size takes 105 bytes or more, so that no manifest of 4 MiB has more
// of them; of "{}," it would have 1.4 million, a hundred bytes of memory each.
const maxEntries = 40_000

// ErrAmbiguousJSON says that a document has a key twice, or in a case that is not
// the specification's: clients differ about what it says.
var ErrAmbiguousJSON = errors.New("a key is there twice, or in another case than the specification's")

// ErrTooManyEntries says that a document lists more than anybody would.
var ErrTooManyEntries = fmt.Errorf("it lists more than %d things", maxEntries)

// DecodeJSON decodes what comes from outside into a T: manifests, tokens, errors
// of registries. encoding/json, which Docker and containerd use, takes keys in any
// case and the last of several; other readers take one case and the first. So one
// document can mean two things, and which one was checked is not which one is used.
// Here keys are read exactly, a key that is there twice is an error at any depth,
// and so is one of T's in another case, where encoding/json would take it for that.
//
// Text that is not UTF-8 is taken as encoding/json takes it, since there are
// annotations with such text. jsontext limits the depth to 10,000; the size is the
// caller's to limit. The document is gone through without keeping anything of it
// before it is decoded, so that one of many small things takes no memory.
func DecodeJSON[T any](data []byte) (T, error) {
	s := scan{Decoder: jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowInvalidUTF8(true))}
	var t T
	err := s.value(reflect.TypeFor[T]())
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return t, ErrAmbiguousJSON
	case err != nil:
		return t, err
	}
	if err := json.Unmarshal(data, &t, jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)); err != nil {
		return *new(T), err
	}
	return t, nil
}

// scan goes through a document that is to be decoded into a type.
type scan struct {
	*jsontext.Decoder
	entries int // of lists that are kept, until now
	keys    int // of the objects that are open: jsontext keeps them to find the ones that are there twice
	name    []byte
}

// value goes through the next value, of which a t is to be made; nil: nothing is.
func (s *scan) value(t reflect.Type) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch s.PeekKind() {
	case '{':
		return s.object(t)
	case '[':
		return s.list(t)
	default:
		_, err := s.ReadToken()
		return err
	}
}

func (s *scan) list(t reflect.Type) error {
	var element reflect.Type
	if t != nil && t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 { // bytes are kept as they are
		element = t.Elem()
	}
	_, err := s.ReadToken()
	for err == nil && s.PeekKind() != ']' {
		if element != nil {
			if s.entries++; s.entries > maxEntries {
				return ErrTooManyEntries
			}
		}
		err = s.value(element)
	}
	return s.end(err)
}

func (s *scan) object(t reflect.Type) error {
	before := s.keys
	defer func() { s.keys = before }()
	_, err := s.ReadToken()
	for err == nil && s.PeekKind() != '}' {
		var key jsontext.Value
		if key, err = s.ReadValue(); err != nil {
			break
		}
		if s.keys++; s.keys > maxEntries {
			return ErrTooManyEntries
		}
		var field reflect.Type
		if field, err = s.field(t, key); err == nil {
			err = s.value(field)
		}
	}
	return s.end(err)
}

// end reads the end of a list or an object, unless it came to none.
func (s *scan) end(err error) error {
	if err == nil {
		_, err = s.ReadToken()
	}
	return err
}

// field is the type of what t keeps under key; nil: nothing.
func (s *scan) field(t reflect.Type, key jsontext.Value) (reflect.Type, error) {
	switch {
	case t == nil:
		return nil, nil //nolint:nilnil // no type is one of the answers
	case t.Kind() == reflect.Map:
		return t.Elem(), nil
	case t.Kind() != reflect.Struct:
		return nil, nil //nolint:nilnil // likewise
	}
	s.name, _ = jsontext.AppendUnquote(s.name[:0], key) // what is not UTF-8 is replaced
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		switch {
		case string(s.name) == name:
			return f.Type, nil
		case strings.EqualFold(string(s.name), name):
			return nil, ErrAmbiguousJSON
		}
	}
	return nil, nil //nolint:nilnil // a key that nobody asked for
}
