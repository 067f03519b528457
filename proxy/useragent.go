package proxy

import "strings"

// clientFamily is which program pulls, by its User-Agent: a label, so one of
// few. The Go module that most others are made of speaks as "containers/",
// except where a tool gives its own name.
func clientFamily(userAgent string) string {
	product, _, _ := strings.Cut(userAgent, "/")
	if len(product) > 24 {
		return "other"
	}
	switch strings.ToLower(product) {
	case "docker":
		return "docker"
	case "containerd":
		return "containerd"
	case "containers", "podman", "libpod", "buildah", "skopeo", "cri-o":
		return "podman"
	case "buildkit":
		return "buildkit"
	case "crane", "go-containerregistry":
		return "crane"
	}
	return "other"
}
