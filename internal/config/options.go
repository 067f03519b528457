package config

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/fileid"
	"berth/internal/hung"
)

// Options are what the file alone does not tell. The zero value is usable.
type Options struct {
	// Getenv finds the default folders. If nil, os.Getenv is used.
	Getenv func(string) string
	// Root says whether the process may write to /run. If nil, that is so for
	// effective user id 0.
	Root func() bool
	// Now tells which tokens have expired. If nil, time.Now is used.
	Now func() time.Time
	// Hung bounds how long each file may take. If nil, they are waited for.
	Hung *hung.Table
	// Main is the main file that Check holds a drop-in against. If empty, the
	// defaults are used.
	Main string
}

func (o Options) getenv(key string) string {
	if o.Getenv == nil {
		return os.Getenv(key)
	}
	return o.Getenv(key)
}

func (o Options) root() bool {
	if o.Root == nil {
		return os.Geteuid() == 0
	}
	return o.Root()
}

func (o Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

// file is a file that was read.
type file struct {
	text  []byte
	stamp fileid.Stamp
}

// read reads a file, with a limit in bytes and in time.
func (o Options) read(path string, limit int64) (file, error) {
	return hung.Do(o.Hung, hung.Limit, path, func() (f file, err error) {
		f.text, f.stamp, err = fileid.Read(path, limit)
		return f, err
	})
}

// folder is the environment's value for key if it names a folder. systemd joins
// several with colons, the first is the first in the unit. A relative one is
// ignored, as the XDG base directory specification demands.
func (o Options) folder(key string) string {
	dir, _, _ := strings.Cut(o.getenv(key), ":")
	if !filepath.IsAbs(dir) {
		return ""
	}
	return filepath.Clean(dir)
}

func (o Options) cacheDirectory() string {
	if dir := o.folder("CACHE_DIRECTORY"); dir != "" {
		return dir
	}
	if dir := o.folder("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "berth")
	}
	if dir := o.folder("HOME"); dir != "" {
		return filepath.Join(dir, ".cache", "berth")
	}
	return "/var/cache/berth"
}

func (o Options) socket() string {
	const system = "/run/berth/admin.sock"
	if o.root() {
		return system
	}
	if dir := o.folder("RUNTIME_DIRECTORY"); dir != "" {
		return filepath.Join(dir, "admin.sock")
	}
	if dir := o.folder("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "berth", "admin.sock")
	}
	return system
}

// Default is the configuration without a file: localhost:5000, open, nobody,
// the built-in registries.
func Default(opts Options) *Config {
	c := defaults(opts)
	c.resolve(folder{})
	return c
}

// defaults are the values that a file starts from.
func defaults(opts Options) *Config {
	return &Config{
		Listeners:              []Listener{defaultListener()},
		OrganisationRegistries: OrganisationRegistries{Allow: true},
		Cache: Cache{
			Directory: opts.cacheDirectory(),
			MaxSize:   Size{Percent: 20},
			MinFree:   Size{Percent: 10},
			TagTTL:    time.Minute,
			AccessTTL: 5 * time.Minute,
			Grace:     24 * time.Hour,
			Doubt:     time.Hour,
		},
		Upstream:           Upstream{Parallel: 4, Connections: 16},
		Admin:              Admin{Address: Address{Host: "localhost", Port: 5001}, Socket: opts.socket()},
		Log:                Log{Level: "info", Format: "text"},
		Metrics:            Metrics{MaxSeries: 20000},
		UnlistedRegistries: UnlistedRefuse,
		opts:               opts,
	}
}
