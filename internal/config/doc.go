// Package config turns the configuration file into checked values.
//
// The file is YAML, read strictly: an unknown key, a value of the wrong type, a
// key given twice, an anchor, an empty file or a second document is an error.
// Every error says where (file:line:column), what is wrong and what to do, and
// none repeats a secret. The comments on the fields of Config and of the types
// below it are the manual: doc/configuration.md is made from them, and a test
// holds it to them.
//
// Only what can be known without looking further is decided here. Secret files,
// certificates and helpers are named, not opened: package auth reads them.
// Addresses are judged again when they are dialled or bound, since a name may
// lead anywhere. Which registries are built in is told by the caller (Options).
package config
