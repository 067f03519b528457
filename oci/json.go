package oci

import (
	anycase "encoding/json"
	"errors"
	"reflect"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrAmbiguousJSON says that a document has a key twice, or in a case that is not
// the specification's: clients differ about what it says.
var ErrAmbiguousJSON = errors.New("a key is there twice, or in another case than the specification's")

// DecodeJSON decodes what comes from outside into a T: manifests, tokens, errors
// of registries. encoding/json, which Docker and containerd use, takes keys in any
// case and the last of several; other readers take one case and the first. So one
// document can mean two things, and which one was checked is not which one is used.
// Here keys are read exactly, a key that is there twice is an error at any depth,
// and so is a document that encoding/json would read differently.
//
// Text that is not UTF-8 is taken as encoding/json takes it, since there are
// annotations with such text. jsontext limits the depth to 10,000; the size is the
// caller's to limit.
func DecodeJSON[T any](data []byte) (T, error) {
	var exact, loose T
	err := json.Unmarshal(data, &exact, jsontext.AllowInvalidUTF8(true))
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return *new(T), ErrAmbiguousJSON
	case err != nil:
		return *new(T), err
	}
	if anycase.Unmarshal(data, &loose) != nil || !reflect.DeepEqual(exact, loose) {
		return *new(T), ErrAmbiguousJSON
	}
	return exact, nil
}
