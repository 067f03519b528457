package setup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"berth/oci"
)

// DaemonJSON is where dockerd looks for its configuration.
const DaemonJSON = "/etc/docker/daemon.json"

// docker is for dockerd. Docker asks mirrors for Docker Hub's images only, sends
// them no login that would say an organisation (the containerd image store sends
// none at all, the older one that for docker.io), and goes around one that fails.
func docker(o Options) Plan {
	var p Plan
	l, ok := mirror(o.Listeners, o.Organisation)
	open := ok && !l.Token
	if keys := DockerKeys(o); !keys.empty() {
		p.Files = append(p.Files, File{Path: DaemonJSON, Merge: true, Content: keys.json()})
		p.Then = append(p.Then, "systemctl reload docker")
		p.Notes = append(p.Notes,
			"reload Docker, never restart it for this: a restart stops the containers",
			"if dockerd is started with --registry-mirror or --insecure-registry it refuses the same key in daemon.json: take the flag away",
		)
	}
	if open {
		p.Files = append(p.Files, File{
			Path: "/etc/docker/certs.d/_default/hosts.toml", Content: hostsTOML(l),
			When: "Docker 28 or later with the containerd image store (the default of new installations of 29): all registries, not only Docker Hub",
		})
		p.Notes = append(p.Notes,
			"registry-mirrors is for Docker Hub's images only, and Docker goes around a mirror that fails, straight to Docker Hub: pull by the name that berth name prints where that must not be",
			"every other registry is pulled by its name behind berth, as in docker pull "+l.Address+"/ghcr.io/acme/app:1, unless the containerd image store reads the hosts.toml",
			"the older image store (docker info: overlay2 without io.containerd.snapshotter) and Docker before 28 do not read hosts.toml",
			"a builder of docker buildx with the docker-container driver does not use any of this: see berth setup buildkit",
		)
	} else {
		p.Notes = append(p.Notes, "no mirror is set: Docker's mirrors carry no organisation, so a port where callers log in is of no use as one")
	}
	for _, l := range o.Listeners {
		if l.Token {
			p.Notes = append(p.Notes, whoPulls(l, "docker login "+l.Address)+"; then pull by the names that berth name --org ORGANISATION prints")
		} else if l.Organisation != "" {
			p.Notes = append(p.Notes, whoPulls(l, ""))
		}
		p.Notes = append(p.Notes, certificate(l, "/etc/docker/certs.d/"+l.Address+"/ca.crt")...)
	}
	return p
}

// DaemonKeys are the keys of daemon.json that lead Docker to a node.
type DaemonKeys struct {
	Mirrors  []string `json:"registry-mirrors,omitempty"`
	Insecure []string `json:"insecure-registries,omitempty"`
}

// DockerKeys are those for o.
func DockerKeys(o Options) DaemonKeys {
	var k DaemonKeys
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

func (k DaemonKeys) empty() bool { return len(k.Mirrors)+len(k.Insecure) == 0 }

func (k DaemonKeys) json() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(k) // strings cannot fail to be encoded
	return b.String()
}

// hostsTOML leads every registry to l and nowhere else. server is what is asked
// when no host answers, and would be the registry itself without that line.
// containerd 1.6 refuses a file that has only server.
func hostsTOML(l Listener) string {
	var b strings.Builder
	fmt.Fprintf(&b, "server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", l.URL(), l.URL())
	return b.String()
}
