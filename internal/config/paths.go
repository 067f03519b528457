package config

import "path/filepath"

// folder is what file names in one configuration file are relative to.
type folder struct {
	base string // of the file; empty where there is no file
	jail string // what a drop-in's files must lie in; empty for the main file
}

func (f folder) absolute(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(f.base, name)
}

// inside says that name is a file below dir, as far as names tell. Symbolic
// links show only when the file is read: see Account.Folder.
func inside(dir, name string) bool {
	rel, err := filepath.Rel(dir, name)
	return err == nil && rel != "." && filepath.IsLocal(rel)
}
