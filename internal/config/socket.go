package config

import (
	"path/filepath"

	"go.yaml.in/yaml/v4"
)

// SocketOf is where a node that runs with the main file at path has its
// admin.socket; an empty path is no file. It asks for no more of the file than
// that: who has just broken it still needs to reach the node. What cannot be
// read counts as not given.
func SocketOf(path string, opts Options) string {
	socket := Default(opts).Admin.Socket
	if path == "" {
		return socket
	}
	read, err := opts.read(path, maxMainFile)
	if err != nil {
		return socket
	}
	root, err := parseYAML(read.text, path)
	if err != nil {
		return socket
	}
	value := child(child(root, "admin"), "socket")
	if value == nil || value.Kind != yaml.ScalarNode {
		return socket
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return socket
	}
	return folder{base: dir}.absolute(value.Value)
}

// child is the value of a key; nil where there is none.
func child(parent *yaml.Node, key string) *yaml.Node {
	if parent == nil || parent.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(parent.Content); i += 2 {
		if parent.Content[i].Value == key {
			return parent.Content[i+1]
		}
	}
	return nil
}
