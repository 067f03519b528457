package oci

// View is as whom an origin is asked. What one view learned (access, tags,
// lists) is never shown to another; only bytes are shared, by digest, after
// each view has proven its own access. Views are comparable and serve as keys.
type View struct {
	// Organisation is empty in the shared view: that of everyone who has no
	// credential for the origin.
	Organisation string
	// Fingerprint stands for the credential. It is an HMAC, not reversible by
	// guessing; a changed secret is a new fingerprint and so a new view with
	// nothing proven. Empty: no credential.
	Fingerprint string
}

// Shared says whether this is the view of those without a credential of their own.
func (v View) Shared() bool { return v.Organisation == "" }
