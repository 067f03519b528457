package oci

import "strings"

// DockerHub is the name of Docker Hub that users write.
const DockerHub = "docker.io"

// DockerHubNames are the names of one registry: docker.io is in image names,
// index.docker.io in credential files and old daemons, registry-1.docker.io serves
// the API and is what containerd's hosts.toml calls it, registry.hub.docker.com is
// its alias.
func DockerHubNames() []string {
	return []string{DockerHub, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
}

// PathForm is how a registry's name is written in an image name, where a colon cannot be.
func PathForm(registry string) string { return strings.Replace(registry, ":", "_", 1) }

// IsDockerHub says whether host, in any case, is a name of Docker Hub.
func IsDockerHub(host string) bool {
	switch strings.ToLower(host) {
	case DockerHub, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return true
	}
	return false
}
