package dialect

// Type is a kind of registry: where its tokens come from and what its answers
// mean where they differ from everyone else's.
type Type struct {
	// Name is what the configuration calls it.
	Name string
	// TokenEndpoints are the token endpoints of the hosted service that are not
	// on the registry's own host and port (those need no mention).
	TokenEndpoints []string
	// ForbiddenMayBeCredential: the token endpoint answers 403 to a credential
	// that is not valid at all, and also to a good one that may not read the
	// repository. Asking once more without a scope, as docker login does, tells
	// the two apart.
	ForbiddenMayBeCredential bool
	// BadScopeIsUnknown: the token endpoint answers 400 for a repository whose
	// name it cannot have.
	BadScopeIsUnknown bool
	// TwoLimits: there is a pull limit, which is explained in JSON and stops
	// only GETs of manifests of one account, and an abuse limit, which is a bare
	// 429 and stops everything from this address.
	TwoLimits bool
	// PerMinute is how many requests a minute one address may send before all of
	// them are refused, with some room; 0: nothing is known of such a limit.
	PerMinute int64
}

// The names of the types.
const (
	DockerHub    = "dockerhub"
	GHCR         = "ghcr"
	DigitalOcean = "digitalocean"
	Quay         = "quay"
	Generic      = "generic"
)

var types = [...]Type{
	// service=registry.docker.io at auth.docker.io; limits: docs.docker.com/docker-hub/usage.
	{Name: DockerHub, TokenEndpoints: []string{"https://auth.docker.io/token"}, TwoLimits: true, PerMinute: 1500},
	// realm https://ghcr.io/token. An expired personal access token gets 403
	// "denied: denied" there, even for public images.
	{Name: GHCR, ForbiddenMayBeCredential: true},
	// The registry is registry.digitalocean.com, its realm is on the API's host,
	// and a registry name that does not exist is a bad scope.
	{Name: DigitalOcean, TokenEndpoints: []string{"https://api.digitalocean.com/v2/registry/auth"}, BadScopeIsUnknown: true},
	// realm https://quay.io/v2/auth; quay/quay endpoints/v2/v2auth.py matches the
	// scope strictly.
	{Name: Quay, BadScopeIsUnknown: true},
	{Name: Generic},
}

// TypeNamed finds a type. The empty name is Generic.
func TypeNamed(name string) (Type, bool) {
	if name == "" {
		name = Generic
	}
	for _, t := range types {
		if t.Name == name {
			return t, true
		}
	}
	return Type{}, false
}
