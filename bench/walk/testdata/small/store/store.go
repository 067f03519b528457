// Package store keeps what was fetched.
package store

import "sync"

var kept sync.Map

// Get fetches what is not kept.
func Get(path string, fetch func() []byte) []byte {
	if data, ok := kept.Load(path); ok {
		return hit(data)
	}
	data := fetch()
	func() { kept.Store(path, data) }()
	return data
}

func hit(data any) []byte { return data.([]byte) }
