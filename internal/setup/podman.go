package setup

import (
	"fmt"
	"strings"
)

// PodmanConf is berth's own file among those that podman reads.
const PodmanConf = "/etc/containers/registries.conf.d/berth.conf"

// podman is for podman, buildah, skopeo and CRI-O. The registries are moved, not
// mirrored: of a mirror that fails they would go to the registry itself.
func podman(o Options) (Plan, error) {
	l, err := ListenerFor(o.Listeners, o.Organisation)
	if err != nil {
		return Plan{}, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[[registry]]\nlocation = %q\ninsecure = %v\n", l.Address, l.plain())
	for _, r := range o.Registries {
		fmt.Fprintf(&b, "\n[[registry]]\nprefix = %q\nlocation = %q\ninsecure = %v\n", r, o.behind(l, r), l.plain())
	}
	p := Plan{
		Files: []File{{Path: PodmanConf, Content: b.String()}},
		Notes: []string{
			"there is no entry for all registries: run this again when the node has learned another",
			"nothing has to be restarted, but CRI-O: systemctl reload crio",
			"a file in registries.conf.d that comes later in the alphabet and has the same prefix takes berth's place: take it away",
			whoPulls(l, "podman login "+l.Address),
			"without --org no organisation is in the names: one that must be there has to be given",
		},
	}
	if l.plain() {
		p.Notes = append(p.Notes, "insecure means plain HTTP here")
	}
	p.Notes = append(p.Notes, certificate(l, "/etc/containers/certs.d/"+l.Address+"/ca.crt")...)
	return p, nil
}

// buildkit is for buildkitd, also as docker buildx starts it.
func buildkit(o Options) (Plan, error) {
	l, err := ListenerFor(o.Listeners, o.Organisation)
	if err != nil {
		return Plan{}, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[registry.%q]\n  http = %v\n", l.Address, l.plain())
	for _, r := range o.Registries {
		fmt.Fprintf(&b, "\n[registry.%q]\n  mirrors = [%q]\n", r, o.behind(l, r))
	}
	p := Plan{
		Files: []File{{Path: "/etc/buildkit/buildkitd.toml", Content: b.String()}},
		Then:  []string{"systemctl restart buildkit"},
		Notes: []string{
			"BuildKit goes around a mirror that fails, to the registry itself: write FROM lines with the names that berth name prints where that must not be",
			"there is no entry for all registries: run this again when the node has learned another",
			"docker build of Docker itself uses Docker's own mirrors: see berth setup docker",
			whoPulls(l, "docker login "+l.Address+" where the build is started"),
			"builds share base images, layers and logins: a builder for each organisation",
		},
	}
	if l.Loopback {
		p.Notes = append(p.Notes, "a builder in a container has a localhost of its own: docker buildx create --driver-opt network=host --buildkitd-config buildkitd.toml")
	}
	p.Notes = append(p.Notes, certificate(l, fmt.Sprintf("a file, and name it in buildkitd.toml below [registry.%q]: ca = [\"/etc/berth/ca.pem\"]", l.Address))...)
	return p, nil
}
