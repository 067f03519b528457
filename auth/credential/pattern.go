package credential

import (
	"fmt"
	"strings"

	"berth/oci"
)

// Pattern selects repositories: path components that must be there as they
// are, "*" for any one component, "**" for any number of them, none too. So
// acme/** is acme and everything below it, acme/* only what is directly below.
//
// The more specific pattern wins: more components written out, then fewer "**",
// then more "*". Two that are equally specific: the one configured first.
type Pattern struct {
	parts []string
	rank  rank
}

// rank orders patterns by how specific they are.
type rank struct{ literal, open, single int }

func (r rank) above(other rank) bool {
	switch {
	case r.literal != other.literal:
		return r.literal > other.literal
	case r.open != other.open:
		return r.open < other.open
	}
	return r.single > other.single
}

// maxPatternParts bounds a pattern; a repository name has at most 128 components.
const maxPatternParts = 128

// ParsePattern checks s. A star that is only part of a component (app-*) is
// refused, and so is what could be in no repository name.
func ParsePattern(s string) (Pattern, error) {
	p := Pattern{parts: strings.Split(s, "/")}
	if len(p.parts) > maxPatternParts {
		return Pattern{}, fmt.Errorf("repository pattern %.60q...: it has too many parts", s)
	}
	for _, part := range p.parts {
		switch {
		case part == "**":
			p.rank.open++
		case part == "*":
			p.rank.single++
		case strings.Contains(part, "*"):
			return Pattern{}, fmt.Errorf("repository pattern %.150q: * stands for a whole part between slashes, not for a piece of one", s)
		case !oci.ValidName(part):
			return Pattern{}, fmt.Errorf("repository pattern %.150q: %.60q cannot be part of a repository name", s, part)
		default:
			p.rank.literal++
		}
	}
	return p, nil
}

// Match says whether repo is selected.
func (p Pattern) Match(repo string) bool { return oci.MatchPath(p.parts, repo) }
