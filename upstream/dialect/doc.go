// Package dialect is what kinds of registries do in their own way, as data, and which
// registries are known without any configuration.
package dialect
