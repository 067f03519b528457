package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v4"

	"berth/internal/setup"
	"berth/oci"
)

// docker looks at dockerd: by hosts.toml where it reads that, else by its mirrors, which
// are for Docker Hub.
func (l *look) docker() {
	mirrors, ok := l.daemonJSON()
	if !ok {
		return
	}
	e, err := askDocker(l.ctx, l.o.DockerSocket)
	if err == nil {
		l.client.Version, l.client.Store = e.ServerVersion, "graphdriver "+e.Driver
		if e.containerdStore() {
			l.client.Store = "containerd " + e.Driver
		}
	}
	if err != nil || e.readsHosts() {
		l.hosts()
		return
	}
	mirrors = append(mirrors, e.RegistryConfig.Mirrors...)
	var around []string
	for _, r := range l.o.Registries {
		way := Way{Registry: r.Name, Around: []string{r.Server}, Push: r.Server}
		if r.Name == oci.DockerHub {
			l.mirrors(mirrors, &way)
		} else {
			around = append(around, r.Name)
		}
		l.client.Ways = append(l.client.Ways, way)
	}
	l.find(Finding{
		Problem: OldDaemon, Registries: around,
		Message: fmt.Sprintf("Docker %s with the %s store reads no hosts.toml: pulls of these registries by their own names go around berth", e.ServerVersion, l.client.Store),
		Cure:    "pull by the names that berth name prints, or go to Docker 28 or later with the containerd image store ({\"features\": {\"containerd-snapshotter\": true}})",
		Run:     l.o.Command + " name IMAGE",
	})
}

// mirrors looks at those of daemon.json, for Docker Hub in the older store.
func (l *look) mirrors(all []string, way *Way) {
	for _, m := range all {
		m = strings.TrimSuffix(m, "/")
		base, named := strings.CutSuffix(m, "/"+oci.DockerHub)
		if at, ok := l.listener(base); ok && !at.Token && (named || at.Registry == "" || oci.IsDockerHub(at.Registry)) {
			way.Through, way.Who = m, who(at, "")
			return
		}
	}
	l.find(Finding{Problem: Bypass, Registries: []string{way.Registry}, File: l.client.File, Message: "Docker has no mirror that is berth's for Docker Hub", Cure: "set one, and reload Docker", Run: l.write() + " && systemctl reload docker"})
}

// daemonJSON reads the mirrors of dockerd's configuration.
func (l *look) daemonJSON() (mirrors []string, ok bool) {
	text, err := readFile(l.client.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true
	}
	var doc struct {
		Mirrors []string `json:"registry-mirrors"`
	}
	if err == nil {
		err = json.Unmarshal(text, &doc)
	}
	if err != nil {
		l.unreadable(l.client.File, nil, err)
		return nil, false
	}
	for _, m := range doc.Mirrors {
		base := strings.TrimSuffix(strings.TrimSuffix(m, "/"), "/"+oci.DockerHub)
		if _, ours := l.listener(base); !ours && loopback(m) {
			l.nearly(l.client.File, setup.Registry{Name: oci.DockerHub}, base)
		}
	}
	return doc.Mirrors, true
}

// containerd looks at its hosts.toml, and whether CRI is led to them.
func (l *look) containerd() {
	cri := criConfig{file: l.client.File}
	if file, err := cri.read(l.client.File, 0); err != nil {
		l.unreadable(file, nil, err)
		return
	}
	f := Finding{Problem: Bypass, File: cri.file, Message: "CRI (Kubernetes) reads no hosts.toml: it has no config_path", Cure: "set it, and restart containerd, which leaves containers running", Run: l.write()}
	l.noCRI = cri.off
	switch {
	case cri.off:
	case cri.former:
		f.Message, f.Cure, f.Run = "CRI (Kubernetes) reads no hosts.toml beside the registry.mirrors or registry.configs in it", "take those away, which config_path stands in for; then "+l.write()+", and restart containerd, which leaves containers running", ""
		l.find(f)
	case len(cri.roots) == 0:
		l.find(f)
	default:
		l.hostsIn(cri.roots...)
		return
	}
	l.hostsIn(l.certs())
}

// criConfig is what the files of containerd say about registries.
type criConfig struct {
	// roots are where CRI looks for a hosts.toml, and file says so.
	roots []string
	file  string
	// former is CRI's older way to have mirrors, beside which it reads no hosts.toml; off:
	// there is no CRI.
	former, off bool
}

// read adds a file, and those that it imports, which win.
func (c *criConfig) read(file string, depth int) (bad string, err error) {
	text, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var doc struct {
		Imports  []string       `toml:"imports"`
		Disabled []string       `toml:"disabled_plugins"`
		Plugins  map[string]any `toml:"plugins"`
	}
	if err == nil {
		err = toml.Unmarshal(text, &doc)
	}
	if err != nil {
		return file, err
	}
	for _, name := range doc.Disabled {
		c.off = c.off || name == "cri" || name == "io.containerd.grpc.v1.cri" || name == "io.containerd.cri.v1.images"
	}
	for _, plugin := range doc.Plugins {
		settings, _ := plugin.(map[string]any)
		registry, _ := settings["registry"].(map[string]any)
		if path, _ := registry["config_path"].(string); path != "" {
			c.roots, c.file = filepath.SplitList(path), file
		}
		for _, key := range []string{"mirrors", "configs"} {
			if has, _ := registry[key].(map[string]any); len(has) > 0 {
				c.former, c.file = true, file
			}
		}
	}
	for _, pattern := range doc.Imports {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(file), pattern)
		}
		files, _ := filepath.Glob(pattern) // in order; a pattern that is none has no file
		for _, next := range files {
			if depth >= maxImports || next == file {
				continue
			}
			if bad, err := c.read(next, depth+1); err != nil {
				return bad, err
			}
		}
	}
	return "", nil
}

// maxImports bounds how deep files import each other.
const maxImports = 5

// registryConf is one entry of a registries.conf.
type registryConf struct {
	Prefix   string `toml:"prefix"`
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	Mirror   []struct {
		Location string `toml:"location"`
	} `toml:"mirror"`
	file string
}

// registriesConf looks at the entries of podman, skopeo, buildah and CRI-O.
func (l *look) registriesConf() {
	dir := filepath.Dir(l.client.File)
	files, _ := filepath.Glob(filepath.Join(dir, "*.conf"))
	if filepath.Base(dir) == "registries.conf.d" {
		files = append([]string{filepath.Join(filepath.Dir(dir), "registries.conf")}, files...)
	}
	entries := map[string]registryConf{}
	for _, file := range files {
		text, err := readFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var doc struct {
			Registry []registryConf `toml:"registry"`
		}
		if err == nil {
			err = toml.Unmarshal(text, &doc)
		}
		if err != nil {
			l.unreadable(file, nil, err)
			return
		}
		for _, r := range doc.Registry {
			if r.Prefix == "" {
				r.Prefix = r.Location
			}
			r.file = file
			entries[r.Prefix] = r // the later file
		}
	}
	for _, r := range l.o.Registries {
		l.conf(r, entryFor(entries, r.Name))
		for prefix, e := range entries { // what is more specific wins
			if _, ours := l.listener(schemed(e.Location, e.Insecure)); !ours && strings.HasPrefix(prefix, r.Name+"/") {
				l.find(Finding{Problem: WrongMirror, Registries: []string{r.Name}, File: e.file, Message: "pulls of " + prefix + " go around berth, to " + e.Location, Cure: "take the entry away: that of all of " + r.Name + " leads to berth"})
			}
		}
	}
}

// entryFor is the entry for a registry, by its name or by a wildcard of its domain, the
// longest.
func entryFor(entries map[string]registryConf, registry string) registryConf {
	if e, ok := entries[registry]; ok {
		return e
	}
	for domain := registry; strings.Contains(domain, "."); {
		_, domain, _ = strings.Cut(domain, ".")
		if e, ok := entries["*."+domain]; ok {
			return e
		}
	}
	return registryConf{}
}

func (l *look) conf(r setup.Registry, e registryConf) {
	way := Way{Registry: r.Name, Around: []string{}, Push: r.Server}
	defer func() { l.client.Ways = append(l.client.Ways, way) }()
	for _, m := range e.Mirror {
		way.Around = append(way.Around, m.Location)
	}
	at, ours := l.listener(schemed(e.Location, e.Insecure))
	other, _ := l.listener(schemed(e.Location, !e.Insecure))
	switch {
	case e.Location == "":
		way.Around = append(way.Around, r.Server)
		l.find(Finding{Problem: Bypass, Registries: []string{r.Name}, Message: "pulls go around berth: no file in " + filepath.Dir(l.client.File) + " leads the registry here", Cure: "write one", Run: l.write()})
		return
	case !ours && other.Address != "":
		l.find(Finding{Problem: Scheme, Registries: []string{r.Name}, File: e.file, Message: fmt.Sprintf("insecure is %v, and %s answers as %s", e.Insecure, other.Address, other.URL()), Cure: "write it anew", Run: l.anew(e.file)})
		return
	case !ours && loopback(schemed(e.Location, e.Insecure)):
		way.Around = append(way.Around, e.Location)
		l.nearly(e.file, r, schemed(hostOf(e.Location), e.Insecure))
		return
	case !ours:
		way.Around = append(way.Around, e.Location)
		l.find(Finding{Problem: WrongMirror, Registries: []string{r.Name}, File: e.file, Message: "pulls go around berth, to " + e.Location, Cure: "put that file aside and write berth's", Run: l.anew(e.file)})
		return
	}
	way.Through, way.Who = at.URL(), who(at, "")
	if !behind(e.Location, r.Name, at) {
		l.find(Finding{Problem: WrongMirror, Registries: []string{r.Name}, File: e.file, Message: e.Location + " is not where berth has " + r.Name + ", so other images than meant are pulled", Cure: "put that file aside and write berth's", Run: l.anew(e.file)})
	}
	if len(way.Around) > 0 {
		l.find(Finding{Problem: Bypass, Registries: []string{r.Name}, File: e.file, Message: "pulls go to " + strings.Join(way.Around, ", ") + " first", Cure: "take the mirrors away", Run: l.anew(e.file)})
	}
	l.answers(e.file, r, door{at: at.URL(), root: at.URL() + "/v2"}, setup.Listener{})
}

// behind says whether a location at a listener is where berth has a registry, perhaps as
// an organisation: this client says the registry in no other way.
func behind(location, registry string, at setup.Listener) bool {
	_, path, _ := strings.Cut(location, "/")
	path = "/" + strings.TrimSuffix(path, "/")
	if path == "/" {
		return at.Registry == registry || at.Registry == "" && oci.IsDockerHub(registry)
	}
	own, _ := strings.CutSuffix(path, "/"+strings.Replace(registry, ":", "_", 1))
	return own != path && strings.Count(own, "/") <= 1
}

// buildkit looks at buildkitd.toml.
func (l *look) buildkit() {
	var doc struct {
		Registry map[string]struct {
			Mirrors []string `toml:"mirrors"`
			HTTP    bool     `toml:"http"`
		} `toml:"registry"`
	}
	text, err := readFile(l.client.File)
	if err == nil {
		err = toml.Unmarshal(text, &doc)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.unreadable(l.client.File, nil, err)
		return
	}
	for _, r := range l.o.Registries {
		way := Way{Registry: r.Name, Around: []string{r.Server}, Push: r.Server} // it goes around a mirror that fails
		for i, m := range doc.Registry[r.Name].Mirrors {
			address := hostOf(m)
			at, ours := l.listener(schemed(address, doc.Registry[address].HTTP))
			_, other := l.listener(schemed(address, !doc.Registry[address].HTTP))
			switch {
			case ours && i == 0:
				way.Through, way.Who = at.URL(), who(at, "")
			case other:
				l.find(Finding{Problem: Scheme, Registries: []string{r.Name}, File: l.client.File, Message: fmt.Sprintf("http is %v for %s, which answers otherwise", doc.Registry[address].HTTP, address), Cure: "write it anew", Run: l.write()})
			default:
				l.nearly(l.client.File, r, schemed(address, doc.Registry[address].HTTP))
			}
		}
		if len(doc.Registry[r.Name].Mirrors) == 0 {
			l.find(Finding{Problem: Bypass, Registries: []string{r.Name}, File: l.client.File, Message: "builds go around berth: the registries have no mirror in " + l.client.File, Cure: "set one", Run: l.write()})
		}
		l.client.Ways = append(l.client.Ways, way)
	}
}

// k3s looks at registries.yaml.
func (l *look) k3s() {
	var doc struct {
		Mirrors map[string]struct {
			Endpoint []string `yaml:"endpoint"`
		} `yaml:"mirrors"`
	}
	text, err := readFile(l.client.File)
	if err == nil {
		err = yaml.Unmarshal(text, &doc)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.unreadable(l.client.File, nil, err)
		return
	}
	for _, r := range l.o.Registries {
		way := Way{Registry: r.Name, Around: []string{r.Server}, Push: r.Server}
		mirror, named := doc.Mirrors[r.Name]
		if !named {
			mirror = doc.Mirrors["*"]
		}
		if len(mirror.Endpoint) == 0 {
			l.find(Finding{Problem: Bypass, Registries: []string{r.Name}, File: l.client.File, Message: "pulls go around berth: the registries have no mirror in " + l.client.File, Cure: "set one", Run: l.write()})
		} else if at, ours := l.listener(mirror.Endpoint[0]); ours {
			way.Through, way.Who = at.URL(), who(at, "")
			way.Around = append(mirror.Endpoint[1:len(mirror.Endpoint):len(mirror.Endpoint)], way.Around...)
		} else {
			l.nearly(l.client.File, r, mirror.Endpoint[0])
		}
		l.client.Ways = append(l.client.Ways, way)
	}
}

// hostOf is the host and port of an image's name.
func hostOf(location string) string {
	host, _, _ := strings.Cut(location, "/")
	return host
}

// schemed is where location is spoken to.
func schemed(location string, plain bool) string {
	if location == "" {
		return ""
	}
	if plain {
		return "http://" + hostOf(location)
	}
	return "https://" + hostOf(location)
}
