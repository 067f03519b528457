package config

import (
	"errors"
	"maps"
	"path/filepath"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v4"

	"berth/internal/fileid"
)

// Report is what Check found, by file and position.
type Report struct {
	Errors   Problems `json:"errors"`
	Warnings Problems `json:"warnings"`
	// Config is what the file says; nil where it cannot be used. For a drop-in it
	// is the main file's with this one organisation.
	Config *Config `json:"-"`
}

// OK says that the file can be used.
func (r Report) OK() bool { return len(r.Errors) == 0 }

// Check reads a main file with its drop-ins, or a single drop-in, and says all
// that is wrong with it. A drop-in is held against Options.Main; it is told by
// the folder it lies in, or by its keys. Unlike at a start, a bad drop-in of a
// main file is an error here.
func Check(path string, opts Options) Report {
	read, err := opts.read(path, maxMainFile)
	if err != nil {
		return Report{Errors: unreadable(path, err)}
	}
	main, trouble := checkMain(opts)
	if looksLikeDropIn(path, read.text, main) {
		r := checkDropIn(path, read.text, main)
		r.Warnings = append(trouble, r.Warnings...)
		return r
	}
	c, err := load(path, opts)
	r := Report{Errors: problemsIn(err)}
	if c == nil {
		return r
	}
	if err == nil {
		r.Config = c
	}
	for _, name := range slices.Sorted(maps.Keys(c.Broken)) {
		r.Errors = append(r.Errors, problemsIn(c.Broken[name])...)
	}
	for _, name := range slices.Sorted(maps.Keys(c.warnings)) {
		r.Warnings = append(r.Warnings, c.warnings[name]...)
	}
	return r
}

// checkMain is the main file that a drop-in is held against, or the defaults.
func checkMain(opts Options) (main *Config, trouble Problems) {
	if opts.Main == "" {
		return Default(opts), nil
	}
	read, err := opts.read(opts.Main, maxMainFile)
	if err == nil {
		if main, err = Parse(read.text, opts.Main, opts); err == nil {
			return main, nil
		}
	}
	return Default(opts), Problems{{File: opts.Main, Message: "the main file cannot be used, so the drop-in was held against the defaults: check the main file first", err: err}}
}

func checkDropIn(path string, text []byte, main *Config) Report {
	path, err := filepath.Abs(path)
	if err != nil {
		return Report{Errors: unreadable(path, err)}
	}
	name, ok := dropInName(path)
	if !ok {
		return Report{Errors: Problems{{File: path, Message: "a drop-in is called NAME.yaml, after its organisation: rename it"}}}
	}
	if len(text) > maxDropIn {
		return Report{Errors: unreadable(path, fileid.TooLarge(maxDropIn))}
	}
	o, warnings, err := main.dropIn(name, path, text)
	r := Report{Errors: problemsIn(err), Warnings: warnings}
	if err == nil {
		alone := main.copied()
		alone.Organisations = map[string]Organisation{name: o}
		r.Config = alone
	}
	return r
}

// looksLikeDropIn says whether the file is one organisation and not a main file.
func looksLikeDropIn(path string, text []byte, main *Config) bool {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err == nil && main.OrganisationsDirectory == dir || filepath.Base(dir) == "organisations.d" {
		return true
	}
	root, err := parseYAML(text, path)
	if err != nil || root.Kind != yaml.MappingNode {
		return false
	}
	dropIn, mainFile := fieldsOf(reflect.ValueOf(Organisation{})), fieldsOf(reflect.ValueOf(*main))
	only := false
	for i := 0; i < len(root.Content); i += 2 {
		name := root.Content[i].Value
		if _, ok := mainFile[name]; ok && name != "registries" {
			return false
		}
		if _, ok := dropIn[name]; ok && name != "registries" {
			only = true
		}
	}
	return only
}

// problemsIn are the Problems that err is made of; nil for nil.
func problemsIn(err error) Problems {
	if err == nil {
		return nil
	}
	if ps, ok := errors.AsType[Problems](err); ok {
		return ps
	}
	return Problems{problemf("%w", err)}
}
