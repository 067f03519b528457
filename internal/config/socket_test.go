package config

import (
	"path/filepath"
	"testing"
)

func TestSocketOf(t *testing.T) {
	opts := testOptions()
	opts.Root = func() bool { return true }
	dir := t.TempDir()
	for _, test := range []struct{ text, want string }{
		{"admin: {socket: /run/other.sock}\n", "/run/other.sock"},
		{"admin:\n  socket: run/admin.sock\n", filepath.Join(dir, "run/admin.sock")},
		{"admin: {socket: /run/other.sock}\nlisteners: []\nunknown: {a: b}\n", "/run/other.sock"},
		{"admin: {socket: ''}\n", ""},
		{"admin: {address: 'localhost:1'}\n", "/run/berth/admin.sock"},
		{"admin: {socket: [1]}\n", "/run/berth/admin.sock"},
		{"admin: text\n", "/run/berth/admin.sock"},
		{"admin: {socket\n", "/run/berth/admin.sock"},
		{"", "/run/berth/admin.sock"},
	} {
		path := filepath.Join(dir, "config.yaml")
		write(t, path, test.text)
		if got := SocketOf(path, opts); got != test.want {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
	}
	for _, path := range []string{"", filepath.Join(dir, "none.yaml"), dir} {
		if got := SocketOf(path, opts); got != "/run/berth/admin.sock" {
			t.Errorf("%q: %q", path, got)
		}
	}
}
