// Package classify says what the answers of registries and of their token endpoints
// mean, and what it means that there was none: one class and one message for each, in
// words that say what to do. What a registry wrote itself is cleaned of credentials and
// signatures before it is kept for the log.
//
// It knows statuses, error codes and texts, and sends nothing; what a kind of registry
// does in its own way comes from upstream/dialect.
package classify
