package config

import (
	"reflect"
)

// Reload reads everything again that c came from. On an error c stays in use.
// An organisation whose drop-in has gone bad keeps what it had in c, as far as
// the new main file still allows it.
func (c *Config) Reload() (*Config, error) {
	main, ok := c.Files[""]
	if !ok {
		return Default(c.opts), nil
	}
	next, err := Load(main.Path, c.opts)
	if err != nil {
		return nil, err
	}
	for name := range next.Broken {
		next.keep(name, c)
	}
	return next, nil
}

// ReloadOrganisations is c with some drop-ins read again, after the files
// appeared, changed or went. A drop-in that has gone bad is in Broken, and the
// organisation keeps what it had.
func (c *Config) ReloadOrganisations(names ...string) *Config {
	next := c.copied()
	for _, name := range names {
		next.readDropIn(name)
	}
	next.weighListeners()
	next.gather()
	return next
}

// keep takes a drop-in's organisation over from before.
func (c *Config) keep(name string, before *Config) {
	_, there := c.Organisations[name]
	o, ok := before.Organisations[name]
	if there || !ok || o.File == "" {
		return
	}
	k := newChecker(c, o.File, nil)
	k.folder = folderOf(o.File)
	k.checkOrganisation(name, &o, "")
	if len(k.problems) == 0 {
		c.Organisations[name] = o
	}
}

// Same says that an organisation is good, and what it was in before: its file and the
// main file are the same. What was made of it then is good for it now.
func (c *Config) Same(organisation string, before *Config) bool {
	if before == nil || c.Broken[organisation] != nil || before.Broken[organisation] != nil {
		return false
	}
	for _, file := range [...]string{"", organisation} {
		if f := c.Files[file]; f != before.Files[file] || f != (File{}) && !f.Stamp.Settled {
			return false
		}
	}
	_, is := c.Organisations[organisation]
	_, was := before.Organisations[organisation]
	return is == was
}

// NeedsRestart lists the keys that differ between c and next and take effect
// only at the next start.
func (c *Config) NeedsRestart(next *Config) []string {
	return changed(reflect.ValueOf(c).Elem(), reflect.ValueOf(next).Elem(), "")
}

// changed compares two structs of one type, field by field, and lists those
// that say so in their tag.
func changed(a, b reflect.Value, path string) []string {
	var found []string
	for i := range a.NumField() {
		f := a.Type().Field(i)
		name := f.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		below := key(path, name)
		switch _, restart := f.Tag.Lookup("restart"); {
		case restart && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()):
			found = append(found, below)
		case restart:
		default:
			found = append(found, changedBelow(a.Field(i), b.Field(i), below)...)
		}
	}
	return found
}

func changedBelow(a, b reflect.Value, path string) []string {
	switch a.Kind() {
	case reflect.Struct:
		return changed(a, b, path)
	case reflect.Slice:
		if a.Type().Elem().Kind() != reflect.Struct || !hasRestart(a.Type().Elem()) {
			return nil
		}
		if a.Len() != b.Len() {
			return []string{path}
		}
		var found []string
		for i := range a.Len() {
			found = append(found, changed(a.Index(i), b.Index(i), indexed(path, i))...)
		}
		return found
	}
	return nil
}

func hasRestart(t reflect.Type) bool {
	for f := range t.Fields() {
		if _, ok := f.Tag.Lookup("restart"); ok {
			return true
		}
	}
	return false
}
