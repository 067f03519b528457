package config

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/fileid"
	"berth/internal/hung"
)

const (
	dropInSuffix = ".yaml"
	// folderWarnings is where warnings about the drop-in folder are noted: no
	// organisation is called so.
	folderWarnings = "."
)

// readDropIns reads all drop-ins. The error is about the folder.
func (c *Config) readDropIns(file string, at positions) error {
	k := newChecker(c, file, at)
	dir := c.OrganisationsDirectory
	if dir == "" {
		dir = filepath.Join(filepath.Dir(file), "organisations.d")
	}
	entries, err := hung.Do(c.opts.Hung, hung.Limit, dir, func() ([]fs.DirEntry, error) { return os.ReadDir(dir) })
	switch {
	case err == nil:
		if dir, err = filepath.Abs(dir); err != nil {
			return unreadable(dir, err)
		}
		c.OrganisationsDirectory = dir
		c.readEntries(entries, k)
	case !errors.Is(err, fs.ErrNotExist):
		k.errorf("organisations_directory", "the folder cannot be read: %w: check who may read it", err)
	case c.OrganisationsDirectory != "":
		k.warnf("organisations_directory", "there is no folder %s, so no organisations are read from it: make it", dir)
	}
	c.complete = true
	c.warn(folderWarnings, k.warnings)
	c.gather()
	return k.problems.asError()
}

func (c *Config) readEntries(entries []fs.DirEntry, k *checker) {
	for _, e := range entries {
		name, ok := dropInName(e.Name())
		if ok {
			c.readDropIn(name)
		} else if strings.HasSuffix(e.Name(), ".yml") && e.Name()[0] != '.' {
			k.warnf("organisations_directory", "%s is not read: rename it to end in %s", quote(e.Name()), dropInSuffix)
		}
	}
}

// dropInName is the organisation that a file is for. Hidden files are none:
// editors and Kubernetes put their own between the drop-ins.
func dropInName(file string) (string, bool) {
	name, ok := strings.CutSuffix(filepath.Base(file), dropInSuffix)
	return name, ok && name != "" && name[0] != '.'
}

// readDropIn reads one drop-in into c. If that fails, an organisation that is
// there already stays as it is.
func (c *Config) readDropIn(name string) {
	path := filepath.Join(c.OrganisationsDirectory, name+dropInSuffix)
	read, err := c.opts.read(path, maxDropIn)
	if errors.Is(err, fs.ErrNotExist) {
		c.forget(name)
		return
	}
	if err != nil {
		if aboutFile(err) {
			read.stamp = fileid.StampOf(path, time.Now())
		}
		c.Files[name] = File{Path: path, Stamp: read.stamp}
		c.Broken[name] = unreadable(path, err)
		return
	}
	c.Files[name] = File{Path: path, SHA256: hashOf(read.text), Stamp: read.stamp}
	if o, ok := c.Organisations[name]; ok && o.File == "" {
		c.Broken[name] = Problems{{File: path, Message: "organisation " + quote(name) + " is in the main file too, which stands: remove one of the two"}}
		return
	}
	o, warnings, err := c.dropIn(name, path, read.text)
	if err != nil {
		c.Broken[name] = err
		return
	}
	delete(c.Broken, name)
	c.Organisations[name] = o
	c.warn(name, warnings)
}

// aboutFile says that a file will not be read until it has changed. Everything else (no
// descriptor is left, the disk fails) may be over at any time.
func aboutFile(err error) bool {
	_, large := errors.AsType[fileid.TooLarge](err)
	return large || errors.Is(err, fileid.ErrNotRegular) || errors.Is(err, fs.ErrPermission)
}

// dropIn decodes and checks one drop-in as it stands in path.
func (c *Config) dropIn(name, path string, text []byte) (Organisation, Problems, error) {
	var o Organisation
	o.setDefaults(name)
	at, err := decodeFile(text, path, mostEntries, &o)
	if err != nil {
		return o, nil, err
	}
	o.File = path
	in := folder{base: filepath.Dir(path), jail: folderOf(path)}
	o.resolve(c, in)
	o.placed(c, path, at, "")
	k := newChecker(c, path, at)
	k.folder = in.jail
	k.checkOrganisation(name, &o, "")
	k.problems.sort()
	return o, k.warnings, k.problems.asError()
}

// folderOf is where the files that a drop-in names must lie.
func folderOf(dropIn string) string { return strings.TrimSuffix(dropIn, dropInSuffix) }

// forget takes out an organisation whose drop-in is gone. One that a listener
// is for is broken then, and not unknown.
func (c *Config) forget(name string) {
	delete(c.Broken, name)
	delete(c.Files, name)
	c.warn(name, nil)
	if o, ok := c.Organisations[name]; ok && o.File != "" {
		delete(c.Organisations, name)
	}
	for i, l := range c.Listeners {
		if _, ok := c.Organisations[name]; !ok && l.Organisation == name {
			c.Broken[name] = Problems{{
				File:    filepath.Join(c.OrganisationsDirectory, name+dropInSuffix),
				Message: "the drop-in is gone, but " + indexed("listeners", i) + " is for this organisation: put it back, or change the listener",
			}}
		}
	}
}

// copied is a copy of c whose organisations can be changed without c noticing.
func (c *Config) copied() *Config {
	next := *c
	next.Organisations = maps.Clone(c.Organisations)
	next.Broken = maps.Clone(c.Broken)
	next.Files = maps.Clone(c.Files)
	next.warnings = maps.Clone(c.warnings)
	return &next
}
