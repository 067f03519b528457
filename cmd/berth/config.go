package main

import (
	"errors"
	"io/fs"
	"os"

	"berth/internal/config"
)

const defaultConfig = "/etc/berth/config.yaml"

// load reads the configuration: the file that was named, or the default one if
// it is there, or none.
func (o *options) load() (*config.Config, error) {
	path := o.path()
	if path == "" {
		return config.Default(config.Options{Hung: o.hung}), nil
	}
	return config.Load(path, config.Options{Hung: o.hung})
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
