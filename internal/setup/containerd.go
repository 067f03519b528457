package setup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// criTables are where CRI has its registries, by the version of config.toml. Containerd 2
// reads version 2 too.
func criTables() map[int64]string {
	return map[int64]string{
		2: `plugins."io.containerd.grpc.v1.cri".registry`,
		3: `plugins."io.containerd.cri.v1.images".registry`,
	}
}

// containerd is for containerd itself: CRI (Kubernetes) and ctr.
func containerd(o Options) (Plan, error) {
	l, err := o.unchanged()
	if err != nil {
		return Plan{}, err
	}
	certs := o.beside("certs.d")
	path := func(version int64) string {
		return tomlText([]setting{{"", "version", fmt.Sprint(version)}, {criTables()[version], "config_path", quoted(certs)}})
	}
	p := Plan{
		Files: append(o.hostsFiles(certs, l, ""),
			File{
				Path: o.File, Merge: true, When: "Kubernetes (CRI) with containerd 2", Content: path(3),
				put:  func(before string) (edit, error) { return putConfigPath(before, certs) },
				take: func(before string) (string, error) { return takeTOML(before), nil },
			},
			File{Path: o.File, Merge: true, When: "Kubernetes (CRI) with containerd 1.6 or 1.7", Content: path(2)},
		),
		Notes: []string{
			"hosts.toml is read at each pull; only a new config_path needs systemctl restart containerd, which leaves containers running",
			"CRI does not read config_path beside registry.mirrors or registry.configs in config.toml: take those away",
			"ctr reads it only when told: ctr images pull --hosts-dir " + certs + " NAME",
			hostsNote, pushNote,
			"a pull secret of Kubernetes is for the registry, and berth does not take it: it asks with the organisation's own account",
		},
		stale: filepath.Join(certs, "*", "hosts.toml"),
	}
	p.note(o.known(), whoPulls(l, "a token in hosts.toml: berth setup containerd --write --organisation ORGANISATION --token-file FILE, or ctr --user"))
	p.note(certificate(l, fmt.Sprintf("a file, and name it in hosts.toml below [host.%q]: ca = \"/etc/berth/ca.pem\"", l.URL()))...)
	return p, nil
}

// known says what becomes of registries that the node does not know.
func (o Options) known() string {
	if o.Unlisted {
		return defaultNote
	}
	return unlistedNote
}

// putConfigPath leads CRI to certs, if it is not led there yet.
func putConfigPath(before, certs string) (e edit, err error) {
	var doc map[string]any
	if err := toml.Unmarshal([]byte(takeTOML(before)), &doc); err != nil {
		return e, errors.New("it is no TOML: " + oneLine(err))
	}
	version, there := doc["version"].(int64)
	if !there && len(doc) == 0 {
		version = 2
	}
	table, ok := criTables()[version]
	if !ok {
		return e, fmt.Errorf("its version is %d: write it anew (containerd config default) in version 2 or 3", version)
	}
	registry, _ := lookUp(doc, table)
	for _, key := range []string{"mirrors", "configs"} {
		if below, _ := registry[key].(map[string]any); len(below) > 0 {
			return e, fmt.Errorf("it has registry.%s, beside which containerd does not start with a config_path: take it away", key)
		}
	}
	if has, _ := registry["config_path"].(string); strings.Contains(":"+has+":", ":"+certs+":") {
		return edit{text: takeTOML(before)}, nil
	}
	var all []setting
	if !there {
		all = append(all, setting{"", "version", "2"})
	}
	e.text, err = setTOML(before, append(all, setting{table, "config_path", quoted(certs)}), false)
	return e, err
}

// nerdctl reads containerd's hosts.toml by itself.
func nerdctl(o Options) (Plan, error) {
	l, err := o.unchanged()
	if err != nil {
		return Plan{}, err
	}
	certs := o.beside("certs.d")
	p := Plan{
		Files: o.hostsFiles(certs, l, ""),
		Notes: []string{
			"it is read at each pull; nothing has to be restarted",
			"rootless nerdctl reads ~/.config/containerd/certs.d: berth setup nerdctl --write --file ~/.config/containerd/config.toml",
			"rootless containerd has a network of its own: localhost there is not this machine's, so berth needs a listener on an address that it reaches",
			"nerdctl build asks buildkitd: see berth setup buildkit",
			hostsNote, pushNote,
		},
		stale: filepath.Join(certs, "*", "hosts.toml"),
	}
	p.note(o.known(), whoPulls(l, "nerdctl login "+l.Address))
	p.note(certificate(l, "a file, and name it in hosts.toml: ca = \"/etc/berth/ca.pem\"")...)
	return p, nil
}
