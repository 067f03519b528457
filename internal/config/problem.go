package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"berth/oci"
)

// Problem is one thing that is wrong, and where.
type Problem struct {
	// File, Line and Column say where the bad value stands; Line is 0 when no
	// line is to blame (a file that cannot be read, a value that came by flag).
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	// Path is the key, as in organisations.acme.credentials[0].registry.
	Path string `json:"path,omitempty"`
	// Message says what is wrong and what to do. It holds no secret.
	Message string `json:"message"`

	err error
}

// Error is "file:line:column: path: what is wrong: what to do".
func (p *Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Unwrap gives the cause, if another package reported one.
func (p *Problem) Unwrap() error { return p.err }

// Problems are all things that are wrong with a file, by position. As an error
// it is one line each.
type Problems []*Problem

const maxShown = 50

func (ps Problems) Error() string {
	var lines []string
	for i, p := range ps {
		if i == maxShown {
			lines = append(lines, fmt.Sprintf("and %d more", len(ps)-i))
			break
		}
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each of them.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// asError is nil when nothing is wrong.
func (ps Problems) asError() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
	})
}

func problemf(format string, args ...any) *Problem {
	err := fmt.Errorf(format, args...)
	return &Problem{Message: err.Error(), err: err}
}

// position is where a value stands in its file, counted from 1.
type position struct{ line, column int }

// positions are the places of all values of one file, by path.
type positions map[string]position

// of is where path stands, or the nearest thing around it that the file has.
func (at positions) of(path string) position {
	for {
		if p, ok := at[path]; ok || path == "" {
			return p
		}
		path = path[:max(strings.LastIndexByte(path, '.'), strings.LastIndexByte(path, '['), 0)]
	}
}

// place is where path stands in file.
func (at positions) place(file, path string) Place { return Place{file, at.of(path).line} }

// ofListeners says whether what is said at path depends on the listeners and on
// who there is.
func ofListeners(path string) bool {
	return path == "organisations" || strings.HasPrefix(path, "listeners")
}

// ofListeners are the positions of those paths alone: a file may have many others.
func (at positions) ofListeners() positions {
	few := positions{}
	for path, p := range at {
		if path == "" || ofListeners(path) {
			few[path] = p
		}
	}
	return few
}

// key is the path of what is below path under name.
func key(path, name string) string {
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-:/") != "" || name == "" {
		name = shownKey(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// quote shows text from a file: short, and on one line.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		s = oci.OneLine(s, limit) + "..."
	}
	return strconv.Quote(s)
}
