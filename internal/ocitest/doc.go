// Package ocitest is what the other packages test against: a registry that
// counts, misbehaves on demand and complains about rude clients, and a suite
// that every oci.Source must pass.
//
// The Registry speaks the pull side of the distribution specification on real
// loopback sockets: a registry, and where asked for a token server and a CDN of
// their own. Its content is generated from seeds, so that large blobs cost no
// memory and every byte is known beforehand. It parses requests by itself and
// shares no code with what it tests but the vocabulary.
//
// It knows nothing of caches, proxies or organisations: only of users, since
// that is all that a registry knows.
package ocitest
