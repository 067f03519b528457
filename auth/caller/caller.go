package caller

// Caller is who makes a request. The zero Caller is nobody, who may pull public
// images where the listener is open.
type Caller struct {
	// Organisation is proven by a token.
	Organisation string
	// Account is what the caller chose by "organisation+account"; it selects
	// among the organisation's credentials and is not checked here.
	Account string
	// TokenName is which of the organisation's tokens was used.
	TokenName string
	// Identity is how it came.
	Identity Identity
}

// Identity is the form in which a caller said who it is.
type Identity string

// The forms. That of a login is also what dockerd makes of X-Registry-Auth: on the wire
// the two are one.
const (
	Login      Identity = "login"
	HostsTOML  Identity = "hosts.toml"
	MetaBerth  Identity = "x-meta-berth"
	LoginMeta  Identity = "login+x-meta-berth"
	HostsMeta  Identity = "hosts.toml+x-meta-berth"
	metaHeader          = "X-Meta-Berth"
)
