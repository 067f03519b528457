// Package credential knows as whom a registry is asked: a Table finds the account of an
// organisation for a repository, and reads its secret from a file, a credential helper
// or the configuration. A Key makes the fingerprint that proofs are bound to.
//
// A secret is in no error, log line or metric.
package credential
