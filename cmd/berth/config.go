package main

import (
	"errors"
	"io/fs"
	"os"

	"berth/internal/config"

	"berth/upstream/dialect"
)

const defaultConfig = "/etc/berth/config.yaml"

// configOptions tell the configuration which registries need none.
func configOptions() config.Options {
	builtins := map[string][]string{}
	for _, r := range dialect.Registries() {
		builtins[r.Name] = r.Aliases
	}
	return config.Options{Builtins: builtins}
}

// load reads the configuration: the file that was named, or the default one if
// it is there, or none.
func (o *options) load() (*config.Config, error) {
	path := o.path()
	if path == "" {
		return config.Default(configOptions()), nil
	}
	return config.Load(path, configOptions())
}

// path is the configuration file in force, empty for none.
func (o *options) path() string {
	if o.config != "" {
		return o.config
	}
	if _, err := os.Stat(defaultConfig); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return defaultConfig
}
