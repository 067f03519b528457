// Package upstream is one registry over HTTP as an oci.Source: it asks, follows
// redirects, tries again, checks what comes back and says what went wrong.
//
// A Registry is one origin. It owns the connections, the address policy and the
// retry budget for each organisation, which all that ask for it share. Registry.As gives
// the Source of one organisation.
//
// What goes over the wire, in layers from the outside in: a Source method
// (source.go, manifest.go, blob.go, list.go) makes a call; do (request.go) puts
// the credential on it and meets a 401; follow (redirect.go) walks redirects by
// hand; send (retry.go) tries again; a transport (transport.go) speaks HTTP
// through a dialer that checks every address (dial.go).
//
// It leaves to others: tokens, challenges and what a status of a registry means
// (package auth), whether an answer may be kept or served again, resuming a
// body that broke off, a limit on the size of a blob, verifying a blob's digest
// (package cache), and who asks at all (package proxy). Manifests are small and
// are verified here.
package upstream
