package registry

import "berth/oci"

// Builtins are the registries that need no configuration. They show everyone without
// an account the same.
func Builtins() []Spec {
	of := func(name, endpoint string, t Type, tokenEndpoints ...string) Spec {
		s := Spec{Name: name, Place: Place{Type: t, Endpoint: endpoint}, Trust: Trust{TokenEndpoints: tokenEndpoints, UniformView: true}}
		if name == oci.DockerHub {
			s.Aliases = oci.DockerHubNames()[1:]
		}
		return s
	}
	return []Spec{
		of(oci.DockerHub, "https://registry-1.docker.io", DockerHub),
		// Docker Hardened Images: Docker Hub's accounts, and nothing without one
		// (docs.docker.com/dhi/how-to/use); realm https://dhi.io/token: its own host.
		of("dhi.io", "https://dhi.io", Generic),
		of("ghcr.io", "https://ghcr.io", GHCR),
		of("registry.digitalocean.com", "https://registry.digitalocean.com", DigitalOcean),
		of("quay.io", "https://quay.io", Quay),
		// realm https://gcr.io/v2/token: its own host.
		of("gcr.io", "https://gcr.io", Generic),
		// Anonymous only, and without tokens.
		of("mcr.microsoft.com", "https://mcr.microsoft.com", Generic),
		// Answers 200 to /v2/ on purpose, so that nobody asks for a token; objects
		// redirect to public buckets (kubernetes/registry.k8s.io, archeio).
		of("registry.k8s.io", "https://registry.k8s.io", Generic),
		// realm https://public.ecr.aws/token/: its own host.
		of("public.ecr.aws", "https://public.ecr.aws", Generic),
		of("registry.gitlab.com", "https://registry.gitlab.com", Generic, "https://gitlab.com/jwt/auth"),
		// A front of GHCR that passes GHCR's challenge on (getwud/wud#143).
		of("lscr.io", "https://lscr.io", Generic, "https://ghcr.io/token"),
	}
}

// Builtin is what is known of a registry without any configuration.
func Builtin(name string) (Spec, bool) {
	for _, b := range Builtins() {
		if b.Name == name {
			return b, true
		}
	}
	return Spec{}, false
}

// Defaults are what a configuration of the registry called name starts from. Its
// endpoint is empty where the file must tell it or where it is built in: see New.
func Defaults(name string) (Place, Trust) {
	t := Trust{OnNotFound: Refuse, Access: AccessRepository, AnonymousFallback: true}
	if b, ok := Builtin(name); ok {
		t.UniformView = b.UniformView
		return Place{Type: b.Type}, t
	}
	return Place{Type: Generic}, t
}
