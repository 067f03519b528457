package setup

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
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
		fmt.Fprintf(&b, "\n[[registry]]\nprefix = %q\nlocation = %q\ninsecure = %v\n", r.Name, o.behind(l, r.Name), l.plain())
	}
	p := Plan{
		Files: []File{ownFile(o.File, b.String())},
		Notes: []string{
			"there is no entry for all registries: run this again when the node has learned another",
			"nothing has to be restarted, but CRI-O: systemctl reload crio",
			"a file in registries.conf.d that comes later in the alphabet and has the same prefix takes berth's place: take it away",
			"pushes by these names go straight to the registry, with a login for it",
			"skopeo list-tags, and skopeo inspect without --raw or --no-tags, ask the registry itself for its tags, whatever these files say",
			whoPulls(l, "podman login "+l.Address),
			"without --org no organisation is in the names: one that must be there has to be given",
		},
	}
	if l.plain() {
		p.note("insecure means plain HTTP here")
	}
	p.note(certificate(l, "/etc/containers/certs.d/"+l.Address+"/ca.crt")...)
	return p, nil
}

// ownFile is one that berth has the name of. What others wrote into it stays where it is.
func ownFile(path, content string) File {
	return File{
		Path: path, Content: content,
		put: func(before string) (e edit, err error) {
			e.text = besideOurs(before, tomlBegin+content+tomlEnd)
			return e, noRegistryTwice(e.text)
		},
		take: func(before string) (string, error) { return takeTOML(before), nil },
	}
}

// besideOurs is text with block in the place of what it has of berth's, or at its end.
func besideOurs(text, block string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	at := 0
	if !strings.HasPrefix(text, tomlBegin) {
		if at = strings.Index(text, "\n"+tomlBegin) + 1; at == 0 {
			at = len(text)
		}
	}
	return takeTOML(text[:at]) + block + takeTOML(text[at:])
}

// noRegistryTwice says what is there twice: podman takes no file in which two entries for
// one registry differ.
func noRegistryTwice(text string) error {
	var doc struct {
		Registry []struct{ Prefix, Location string }
	}
	if err := toml.Unmarshal([]byte(text), &doc); err != nil {
		return errors.New("it is no TOML, or cannot be added to: " + oneLine(err))
	}
	seen := map[string]bool{}
	for _, r := range doc.Registry {
		prefix := cmp.Or(r.Prefix, r.Location)
		if seen[prefix] {
			return fmt.Errorf("registry %q is in it without berth, and would be there twice: take it out", prefix)
		}
		seen[prefix] = true
	}
	return nil
}

// buildkit is for buildkitd, also as docker buildx starts it.
func buildkit(o Options) (Plan, error) {
	l, err := ListenerFor(o.Listeners, o.Organisation)
	if err != nil {
		return Plan{}, err
	}
	all := []setting{{fmt.Sprintf("registry.%q", l.Address), "http", fmt.Sprint(l.plain())}}
	for _, r := range o.Registries {
		all = append(all, setting{fmt.Sprintf("registry.%q", r.Name), "mirrors", list(o.behind(l, r.Name))})
	}
	p := Plan{
		Files: []File{{
			Path: o.File, Merge: true, Content: strings.TrimPrefix(tomlText(all), "\n"),
			put: func(before string) (e edit, err error) {
				e.text, err = setTOML(before, all, false)
				return e, err
			},
			take: func(before string) (string, error) { return takeTOML(before), nil },
		}},
		Then: []string{"systemctl restart buildkit"},
		Notes: []string{
			"BuildKit goes around a mirror that fails, to the registry itself: write FROM lines with the names that berth name prints where that must not be",
			"there is no entry for all registries: run this again when the node has learned another",
			"docker build of Docker itself uses Docker's own mirrors: see berth setup docker",
			"pushes go straight to the registries",
			whoPulls(l, "docker login "+l.Address+" where the build is started"),
			"builds share base images, layers and logins: a builder for each organisation",
		},
	}
	if l.Loopback {
		p.note("a builder in a container has a localhost of its own: docker buildx create --driver-opt network=host --buildkitd-config buildkitd.toml")
	}
	p.note(certificate(l, fmt.Sprintf("a file, and name it in buildkitd.toml below [registry.%q]: ca = [\"/etc/berth/ca.pem\"]", l.Address))...)
	return p, nil
}
