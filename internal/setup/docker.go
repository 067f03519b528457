package setup

import (
	"bytes"
	"encoding/json"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"berth/oci"
)

// DaemonJSON is where dockerd looks for its configuration.
const DaemonJSON = "/etc/docker/daemon.json"

// docker is for dockerd in both its stores. The containerd image store reads a hosts.toml
// for every registry. The older store asks mirrors for Docker Hub's images only, with no
// login that would say an organisation, and goes around one that fails.
func docker(o Options) (Plan, error) {
	certs := o.beside("certs.d")
	p := Plan{stale: filepath.Join(certs, "*", "hosts.toml")}
	l, ok := mirror(o.Listeners, o.Organisation)
	keys := dockerKeys(o)
	former := formerKeys(certs)
	daemon := o.daemonFile(keys, former)
	if keys.empty() && !former.empty() {
		p.unshown = append(p.unshown, daemon)
		p.Then = append(p.Then, "systemctl reload docker")
	}
	if !keys.empty() {
		p.Files = append(p.Files, daemon)
		p.Then = append(p.Then, "systemctl reload docker")
		p.note(
			"reload Docker, never restart it for this: a restart stops the containers",
			"if dockerd is started with --registry-mirror or --insecure-registry it refuses the same key in daemon.json: take the flag away",
		)
	}
	if len(keys.Mirrors) > 0 {
		p.note("registry-mirrors is for Docker Hub's images only, and in the older image store Docker goes around a mirror that fails, straight to Docker Hub: pull by the name that berth name prints where that must not be")
	}
	if ok && (!l.Token || o.Organisation != "") {
		if _, err := o.unchanged(); err != nil {
			return p, err
		}
		p.Files = append(p.Files, o.hostsFiles(certs, l, "Docker 28 or later with the containerd image store (the default of new installations of 29), and its docker build in both stores")...)
		p.note(
			"hosts.toml is read at each pull; nothing has to be restarted for it",
			"the older image store (docker info: overlay2 without io.containerd.snapshotter) and Docker before 28 do not read hosts.toml: there every registry but Docker Hub is pulled by its name behind berth, as in docker pull "+l.Address+"/ghcr.io/acme/app:1",
			"one dockerd has one image under one name: where organisations share it, write names that begin with the organisation (berth name --org ORGANISATION IMAGE)",
			"a builder of docker buildx with the docker-container driver does not use any of this: see berth setup buildkit",
			hostsNote, pushNote, o.known(),
		)
	} else {
		p.note("no mirror is set: Docker's mirrors carry no organisation, so a port where callers log in is of no use as one; where one organisation has the node, --organisation ORGANISATION --token-file FILE puts its token into a hosts.toml for each registry")
	}
	for _, l := range o.Listeners {
		if l.Token {
			p.note(whoPulls(l, "docker login "+l.Address) + "; then pull by the names that berth name --org ORGANISATION prints")
		} else if l.Organisation != "" {
			p.note(whoPulls(l, ""))
		}
		p.note(certificate(l, "/etc/docker/certs.d/"+l.Address+"/ca.crt")...)
	}
	return p, nil
}

// daemonFile merges keys into daemon.json. A mirror of former is taken out, as the
// hosts.toml that tells of it is written anew; another port may go on to be without TLS.
func (o Options) daemonFile(keys, former daemonKeys) File {
	return File{
		Path: o.File, Merge: true, Content: keys.json(),
		put: func(before string) (e edit, err error) {
			gone := slices.DeleteFunc(slices.Clone(former.Mirrors), func(m string) bool { return slices.Contains(keys.Mirrors, m) })
			if before, err = unmerge(before, daemonKeys{Mirrors: gone}); err != nil {
				return edit{text: before}, err
			}
			after, others, err := merge([]byte(before), keys)
			if e = (edit{text: string(after), others: others}); after == nil {
				e.text = before
			}
			return e, err
		},
		take: func(before string) (string, error) {
			return unmerge(before, daemonKeys{
				Mirrors:  slices.Concat(keys.Mirrors, former.Mirrors),
				Insecure: slices.Concat(keys.Insecure, former.Insecure),
			})
		},
	}
}

// formerKeys are those of the port that berth's part of each hosts.toml leads to. There are
// no comments in daemon.json that could say what is berth's, and the node may have another
// port by now.
func formerKeys(certs string) (k daemonKeys) {
	files, _ := filepath.Glob(filepath.Join(certs, "*", "hosts.toml"))
	for _, path := range files {
		text, _, err := readFile(path)
		if err != nil {
			continue // said where it is to be written
		}
		ours := false
		for l := range strings.Lines(string(text)) {
			switch name := strings.Split(header(l), "\x00"); {
			case l == tomlBegin, l == tomlEnd:
				ours = l == tomlBegin
			case ours && len(name) == 2 && name[0] == "host" && !slices.Contains(k.Mirrors, name[1]):
				k.Mirrors = append(k.Mirrors, name[1], name[1]+"/"+oci.DockerHub)
				if u, err := url.Parse(name[1]); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
					k.Insecure = append(k.Insecure, u.Host)
				}
			}
		}
	}
	return k
}

// daemonKeys are the keys of daemon.json that lead Docker to a node.
type daemonKeys struct {
	Mirrors  []string `json:"registry-mirrors,omitempty"`
	Insecure []string `json:"insecure-registries,omitempty"`
}

// dockerKeys are those for o.
func dockerKeys(o Options) daemonKeys {
	var k daemonKeys
	if l, ok := mirror(o.Listeners, o.Organisation); ok && !l.Token {
		url := l.URL()
		if l.registry() != oci.DockerHub {
			url += "/" + oci.DockerHub
		}
		k.Mirrors = []string{url}
	}
	for _, l := range o.Listeners {
		// 127.0.0.0/8 and ::1 may be without TLS anyway.
		if l.plain() && !l.Loopback {
			k.Insecure = append(k.Insecure, l.Address)
		}
	}
	return k
}

func (k daemonKeys) empty() bool { return len(k.Mirrors)+len(k.Insecure) == 0 }

func (k daemonKeys) json() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(k) // strings cannot fail to be encoded
	return b.String()
}
