package dialect

import (
	"slices"

	"berth/oci"
)

// Registry is a registry that is known without any configuration.
type Registry struct {
	// Name is what users write in front of a repository.
	Name string
	// Aliases are other spellings of Name.
	Aliases []string
	// Type is the name of its Type.
	Type string
	// Endpoint is scheme and host.
	Endpoint string
	// TokenEndpoints are those that neither lie on the endpoint's host and port
	// nor belong to the type.
	TokenEndpoints []string
	// UniformView says that everyone without an account sees the same there.
	UniformView bool
}

var registries = [...]Registry{
	{Name: oci.DockerHub, Aliases: oci.DockerHubNames()[1:], Type: DockerHub, Endpoint: "https://registry-1.docker.io", UniformView: true},
	{Name: "ghcr.io", Type: GHCR, Endpoint: "https://ghcr.io", UniformView: true},
	{Name: "registry.digitalocean.com", Type: DigitalOcean, Endpoint: "https://registry.digitalocean.com", UniformView: true},
	{Name: "quay.io", Type: Quay, Endpoint: "https://quay.io", UniformView: true},
	// realm https://gcr.io/v2/token: its own host.
	{Name: "gcr.io", Type: Generic, Endpoint: "https://gcr.io", UniformView: true},
	// Anonymous only, and without tokens.
	{Name: "mcr.microsoft.com", Type: Generic, Endpoint: "https://mcr.microsoft.com", UniformView: true},
	// Answers 200 to /v2/ on purpose, so that nobody asks for a token; objects
	// redirect to public buckets (kubernetes/registry.k8s.io, archeio).
	{Name: "registry.k8s.io", Type: Generic, Endpoint: "https://registry.k8s.io", UniformView: true},
	// realm https://public.ecr.aws/token/: its own host.
	{Name: "public.ecr.aws", Type: Generic, Endpoint: "https://public.ecr.aws", UniformView: true},
	{Name: "registry.gitlab.com", Type: Generic, Endpoint: "https://registry.gitlab.com", TokenEndpoints: []string{"https://gitlab.com/jwt/auth"}, UniformView: true},
	// A front of GHCR that passes GHCR's challenge on (getwud/wud#143).
	{Name: "lscr.io", Type: Generic, Endpoint: "https://lscr.io", TokenEndpoints: []string{"https://ghcr.io/token"}, UniformView: true},
}

// Registries gives the built-in registries, a fresh copy each time.
func Registries() []Registry {
	all := slices.Clone(registries[:])
	for i := range all {
		all[i].Aliases = slices.Clone(all[i].Aliases)
		all[i].TokenEndpoints = slices.Clone(all[i].TokenEndpoints)
	}
	return all
}
