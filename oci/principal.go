package oci

// Principal is as whom an origin is asked. What one principal learned (access, tags,
// lists) is never shown to another; only bytes are shared, by digest, after
// each principal has proven its own access. Principals are comparable and serve as keys.
type Principal struct {
	// Organisation is empty for the shared principal: that of everyone who has no
	// credential for the origin.
	Organisation string
	// Fingerprint stands for the credential. It is an HMAC, not reversible by
	// guessing; a changed secret is a new fingerprint and so a new principal with
	// nothing proven. Empty: no credential.
	Fingerprint string
}

// Shared says whether this is the principal of those without a credential of their own.
func (v Principal) Shared() bool { return v.Organisation == "" }
