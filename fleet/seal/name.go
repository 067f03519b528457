package seal

import (
	"errors"
	"regexp"
)

// Everywhere is what stands in the place of a zone for what all zones share.
const Everywhere = "all"

// Nodes' and zones' names are parts of keys, and of patterns in access rules.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// CheckName says why a node or a zone cannot have that name, or nil.
func CheckName(name string) error {
	if !nameForm.MatchString(name) || name == Everywhere {
		return errors.New(`use at most 63 lower-case letters, digits, ".", "_" and "-", with a letter or digit at both ends, and not "all"`)
	}
	return nil
}
