package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"berth/internal/suggest"
)

// parseYAML reads exactly one document. The library's own errors are passed on
// with their position, except where they repeat text from the file.
func parseYAML(text []byte, file string) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	var doc, more yaml.Node
	if err := loader.Load(&doc); errors.Is(err, io.EOF) {
		return nil, Problems{{File: file, Message: emptyFile}}
	} else if err != nil {
		return nil, Problems{syntaxProblem(err, text, file)}
	}
	if err := loader.Load(&more); err == nil {
		return nil, Problems{{File: file, Line: more.Line, Column: max(more.Column, 1), Message: "a second document begins here: keep one, in one file"}}
	} else if !errors.Is(err, io.EOF) {
		return nil, Problems{syntaxProblem(err, text, file)}
	}
	if len(doc.Content) != 1 || isNull(doc.Content[0]) {
		return nil, Problems{{File: file, Message: emptyFile}}
	}
	return doc.Content[0], nil
}

const emptyFile = "the file is empty: write at least one key, or remove the file"

func syntaxProblem(err error, text []byte, file string) *Problem {
	e, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		return &Problem{File: file, Message: "this is no YAML: it cannot be read"}
	}
	p := &Problem{File: file, Line: e.Mark.Line, Column: e.Mark.Column, Message: "this is no YAML: " + e.Message}
	if p.Line == 0 { // a byte that is no text at all: only its offset is known
		before := text[:min(max(e.Mark.Index, 0), len(text))]
		p.Line = bytes.Count(before, []byte("\n")) + 1
		p.Column = utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	}
	switch {
	case strings.Contains(e.Message, "anchor"):
		p.Message = noAliases // a password that begins with * would be repeated
	case tabIndents(text, p.Line):
		p.Message = noTabs
	}
	return p
}

// tabIndents says whether there is a tab among the blanks that a line begins with.
func tabIndents(text []byte, line int) bool {
	lines := bytes.SplitN(text, []byte("\n"), line+1)
	if line < 1 || line > len(lines) {
		return false
	}
	this := lines[line-1]
	return bytes.ContainsRune(this[:len(this)-len(bytes.TrimLeft(this, " \t"))], '\t')
}

const (
	noAliases = "this is an alias or anchor: write the value out, or put quotes around a value that begins with * or &"
	noTabs    = "the line is indented with a tab, which YAML does not allow: put spaces in its place"
	noTags    = "this is a tag: remove it, or put quotes around a value that begins with !"
)

// decoder fills the structs of this package from a YAML tree, collects every
// problem on the way, and remembers where each value stood.
//
// It is ours since the library's own decoding repeats values in its errors,
// which may be secrets, and forgets the positions that validation needs.
type decoder struct {
	file     string
	most     int // entries of a list or a group of keys; 0: any number
	at       positions
	problems Problems
}

// maxProblems bounds what a hostile file can make us keep.
const maxProblems = 1000

func (d *decoder) problem(n *yaml.Node, path, format string, args ...any) {
	if len(d.problems) == maxProblems {
		return
	}
	p := problemf(format, args...)
	p.File, p.Line, p.Column, p.Path = d.file, n.Line, n.Column, path
	d.problems = append(d.problems, p)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// decode fills v, which is addressable, from n.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if _, ok := d.at[path]; !ok {
		d.at[path] = position{n.Line, n.Column}
	}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.problem(n, path, noAliases)
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.problem(n, path, noTags)
		return
	}
	if reserved, ok := reflect.TypeAssert[interface{ refusal() string }](v); ok {
		d.problem(n, path, "%s", reserved.refusal())
		return
	}
	if parse := parser(v); parse != nil {
		d.scalar(n, parse, path)
		return
	}
	if isNull(n) {
		return // "cache:" with everything below it commented out means the defaults
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(d.element(n, v.Type().Elem(), "", path).Addr())
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	default:
		panic("config: no way to decode " + v.Type().String()) // a new field of a new type; every test meets it
	}
}

func (d *decoder) scalar(n *yaml.Node, parse func(string) error, path string) {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.problem(n, path, "this is %s where a single value is wanted: write %s: VALUE", kindName(n), lastKey(path))
	case isNull(n):
		d.problem(n, path, `the value is missing: write one, "" for empty text, or remove the key`)
	default:
		if err := parse(n.Value); err != nil {
			d.problem(n, path, "%w", err)
		}
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	fields := fieldsOf(v)
	d.pairs(n, path, func(name, value *yaml.Node) {
		field, ok := fields[name.Value]
		if !ok {
			d.unknown(name, path, fields)
			return
		}
		below := key(path, name.Value)
		if value.Kind != yaml.ScalarNode {
			d.at[below] = position{name.Line, name.Column}
		}
		d.decode(value, field, below)
	})
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	m := reflect.MakeMap(v.Type())
	d.pairs(n, path, func(name, value *yaml.Node) {
		below := key(path, name.Value)
		d.at[below] = position{name.Line, name.Column}
		m.SetMapIndex(reflect.ValueOf(name.Value), d.element(value, v.Type().Elem(), name.Value, below))
	})
	v.Set(m)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n, path, "this is %s where a list is wanted: write [A, B], or a line that begins with - for each entry", kindName(n))
		return
	}
	if d.tooMany(n, len(n.Content), path) {
		return
	}
	list := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	for i, value := range n.Content {
		list = reflect.Append(list, d.element(value, v.Type().Elem(), "", fmt.Sprintf("%s[%d]", path, i)))
	}
	v.Set(list)
}

// element makes a new entry of a list, or of a map under name: its defaults, then the
// file's values.
func (d *decoder) element(n *yaml.Node, t reflect.Type, name, path string) reflect.Value {
	v := reflect.New(t)
	if e, ok := reflect.TypeAssert[interface{ setDefaults(name string) }](v); ok {
		e.setDefaults(name)
	}
	d.decode(n, v.Elem(), path)
	return v.Elem()
}

// pairs gives the keys of n with their values, each key once.
func (d *decoder) pairs(n *yaml.Node, path string, each func(name, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "this is %s where keys are wanted: write KEY: VALUE lines, indented, with a space after each colon", kindName(n))
		return
	}
	if d.tooMany(n, len(n.Content)/2, path) {
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode || name.Anchor != "" || name.Style&yaml.TaggedStyle != 0 {
			d.problem(name, path, "the key is no plain text: write KEY: VALUE")
			continue
		}
		if line, ok := seen[name.Value]; ok {
			d.problem(name, path, "key %s was already given in line %d: remove one of the two", shownKey(name.Value), line)
			continue
		}
		seen[name.Value] = name.Line
		each(name, value)
	}
}

// tooMany complains about a list or a group of keys with more entries than there may be.
func (d *decoder) tooMany(n *yaml.Node, entries int, path string) bool {
	if d.most == 0 || entries <= d.most {
		return false
	}
	d.problem(n, path, "%d entries are too many: an organisation's file may have %d here: remove those that are not used, or have the operator put them into the main file", entries, d.most)
	return true
}

func (d *decoder) unknown(name *yaml.Node, path string, fields map[string]reflect.Value) {
	known := make([]string, 0, len(fields))
	for f := range fields {
		known = append(known, f)
	}
	slices.Sort(known)
	hint := suggest.Question(name.Value, known)
	if hint == "" {
		hint = ": remove it; known here are " + strings.Join(known, ", ")
	}
	d.problem(name, path, "unknown key %s%s", shownKey(name.Value), hint)
}

// shownKey is a key as it may be shown. What does not look like a key may be a
// secret that lost the space after its colon, as in "password:hunter2".
func shownKey(s string) string {
	if len(s) > 40 || strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789._-<") != "" {
		return "(not shown, it does not look like a key)"
	}
	return strconv.Quote(s)
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of keys"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// lastKey is the key that path ends in, without the index of a list.
func lastKey(path string) string {
	path, _, _ = strings.Cut(path[strings.LastIndexByte(path, '.')+1:], "[")
	return path
}

// fieldsOf are the fields of the struct v by their keys, those of embedded
// structs among them.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("yaml")
		switch {
		case f.Anonymous:
			maps.Copy(fields, fieldsOf(v.Field(i)))
		case name != "" && name != "-":
			fields[name] = v.Field(i)
		}
	}
	return fields
}
