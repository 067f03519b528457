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
}
