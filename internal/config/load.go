package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"

	"berth/internal/descriptor"
	"berth/internal/fileid"
	"berth/internal/hung"
)

const (
	maxMainFile = 8 << 20
	maxDropIn   = 1 << 20
	// mostEntries is how many entries each list of a drop-in may have: registries,
	// accounts, tokens, patterns, rules. All of them are gone through whenever the
	// configuration changes, and nobody's change may take long for what another wrote.
	mostEntries = 1000
)

// Load reads the main file at path and the drop-ins that belong to it. The
// error, always Problems, is about the main file alone and leaves nothing
// usable; what is wrong with a drop-in is in Config.Broken.
func Load(path string, opts Options) (*Config, error) {
	c, err := load(path, opts)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// load gives a Config together with an error when the file could be decoded
// but says something wrong.
func load(path string, opts Options) (*Config, error) {
	read, err := opts.read(path, maxMainFile)
	if err != nil {
		return nil, unreadable(path, err)
	}
	c, at, err := parseMain(read.text, path, opts)
	if err != nil {
		return nil, err
	}
	c.Files[""] = File{Path: path, SHA256: hashOf(read.text), Stamp: read.stamp}
	err = c.readDropIns(path, at)
	if err == nil {
		err = c.check(path, at)
	}
	return c, err
}

// Parse reads a main file that is in memory. name stands for it in messages and says what
// its file names are relative to. Drop-ins are not read, so a listener may name an
// organisation that is not in the file.
func Parse(text []byte, name string, opts Options) (*Config, error) {
	c, at, err := parseMain(text, name, opts)
	if err == nil {
		err = c.check(name, at)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Validate checks the main file's part again, after flags have changed it. Its
// Problems have no line.
func (c *Config) Validate() error { return c.audit("", nil).problems.asError() }

// check notes the warnings of the main file and returns its problems.
func (c *Config) check(file string, at positions) error {
	k := c.audit(file, at)
	c.warn("", k.warnings)
	c.listenersAt = at.ofListeners()
	c.gather()
	return k.problems.asError()
}

// weighListeners makes those warnings of the main file anew that depend on which
// organisations there are.
func (c *Config) weighListeners() {
	k := newChecker(c, c.Files[""].Path, c.listenersAt)
	k.listeners(c)
	k.reachable()
	others := slices.DeleteFunc(slices.Clone(c.warnings[""]), func(p *Problem) bool {
		return ofListeners(p.Path)
	})
	c.warn("", append(others, k.warnings...))
}

// audit checks everything but drop-ins, which are checked as they are read.
func (c *Config) audit(file string, at positions) *checker {
	k := newChecker(c, file, at)
	k.platform()
	for _, name := range slices.Sorted(maps.Keys(c.Organisations)) {
		o := c.Organisations[name]
		if o.File == "" {
			k.checkOrganisation(name, &o, key("organisations", name))
		}
	}
	k.problems.sort()
	return k
}

func parseMain(text []byte, name string, opts Options) (*Config, positions, error) {
	c := defaults(opts)
	at, err := decodeFile(text, name, 0, c)
	if err != nil {
		return nil, nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, nil, fmt.Errorf("finding the folder of %s: %w", name, err)
	}
	c.resolve(folder{base: dir})
	c.placed(name, at)
	return c, at, nil
}

// placed notes where in the main file accounts and the rules of policies stand.
func (c *Config) placed(file string, at positions) {
	c.Policy.placed(file, at, "policy", c.names)
	for name, r := range c.Registries {
		if r.Credential != nil {
			r.Credential.At = at.place(file, dot(key("registries", name), "credential"))
		}
	}
	for name, o := range c.Organisations {
		o.placed(c, file, at, key("organisations", name))
		c.Organisations[name] = o
	}
}

// placed is the same for an organisation, which stands at path.
func (o *Organisation) placed(c *Config, file string, at positions, path string) {
	o.Policy.placed(file, at, dot(path, "policy"), o.namesIn(c))
	for i := range o.Credentials {
		o.Credentials[i].At = at.place(file, indexed(dot(path, "credentials"), i))
	}
}

// decodeFile fills target, a pointer to a struct with its defaults set. No list or group
// of keys in it may have more than most entries; 0: any number.
func decodeFile(text []byte, file string, most int, target any) (positions, error) {
	root, err := parseYAML(text, file)
	if err != nil {
		return nil, err
	}
	d := decoder{file: file, most: most, at: positions{}}
	d.decode(root, reflect.ValueOf(target).Elem(), "")
	d.problems.sort()
	return d.at, d.problems.asError()
}

// resolve makes file names absolute, fills in what depends on other values, and
// replaces aliases of registries by their names.
func (c *Config) resolve(in folder) {
	c.Broken, c.Files, c.warnings = map[string]error{}, map[string]File{}, map[string]Problems{}
	if c.Organisations == nil {
		c.Organisations = map[string]Organisation{}
	}
	c.OrganisationsDirectory = in.absolute(c.OrganisationsDirectory)
	c.Fleet.resolve(in)
	c.Cache.Directory = in.absolute(c.Cache.Directory)
	c.Admin.WebConfigFile = in.absolute(c.Admin.WebConfigFile)
	c.Admin.TokenFile = in.absolute(c.Admin.TokenFile)
	c.Admin.Socket = in.absolute(c.Admin.Socket)
	if c.Audit.File != "-" {
		c.Audit.File = in.absolute(c.Audit.File)
	}
	c.names = newNames()
	quiet := checker{c: c, names: c.names}
	quiet.registryNames(c.Registries, c.names, "")
	for name, r := range c.Registries {
		r.resolve(name, c.names.builtin[name], in)
		c.Registries[name] = r
	}
	c.names.placeRegistries(c.Registries)
	for i := range c.Listeners {
		l := &c.Listeners[i]
		l.Registry = c.names.resolve(l.Registry)
		if l.TLS != nil {
			l.TLS.CertFile, l.TLS.KeyFile = in.absolute(l.TLS.CertFile), in.absolute(l.TLS.KeyFile)
		}
	}
	for name, o := range c.Organisations {
		o.resolve(c, in)
		c.Organisations[name] = o
	}
	c.complete = in.base == "" // without a file there are no drop-ins
}

// warn replaces the warnings of one file. They show after gather.
func (c *Config) warn(organisation string, warnings Problems) {
	if len(warnings) == 0 {
		delete(c.warnings, organisation)
		return
	}
	warnings.sort()
	c.warnings[organisation] = warnings
}

// gather puts Warnings in order: the main file's first, then by organisation.
func (c *Config) gather() {
	c.Warnings = nil
	for _, name := range slices.Sorted(maps.Keys(c.warnings)) {
		for _, w := range c.warnings[name] {
			c.Warnings = append(c.Warnings, w.Error())
		}
	}
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// unreadable is err as a Problem, without the path that the Problem names anyway.
func unreadable(path string, err error) Problems {
	if _, ok := errors.AsType[*hung.Error](err); ok {
		return Problems{{File: path, Message: "the file cannot be read: " + err.Error(), err: err}}
	}
	why := err
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		why = e.Err
	}
	if descriptor.Exhausted(err) {
		return Problems{{File: path, Message: "the file cannot be read now: " + why.Error() + ": let berth open more files (LimitNOFILE= or ulimit -n)", err: err}}
	}
	advice := "check its name and who may read it"
	if _, ok := errors.AsType[fileid.TooLarge](err); ok {
		advice = "make it smaller"
	}
	return Problems{{File: path, Message: "the file cannot be read: " + why.Error() + ": " + advice, err: err}}
}
