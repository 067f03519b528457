package setup

import "fmt"

const hostsNote = "a folder of a registry's own beside _default, such as certs.d/docker.io, goes before it: take it away, or write the same hosts.toml there"

// containerd is for containerd itself: CRI (Kubernetes) and ctr.
func containerd(o Options) (Plan, error) {
	l, err := o.unchanged()
	if err != nil {
		return Plan{}, err
	}
	p := Plan{
		Files: []File{
			{Path: "/etc/containerd/certs.d/_default/hosts.toml", Content: hostsTOML(l)},
			{
				Path: "/etc/containerd/config.toml", Merge: true, When: "Kubernetes (CRI) with containerd 2",
				Content: "version = 3\n\n[plugins.\"io.containerd.cri.v1.images\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
			},
			{
				Path: "/etc/containerd/config.toml", Merge: true, When: "Kubernetes (CRI) with containerd 1.6 or 1.7",
				Content: "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
			},
		},
		Notes: []string{
			"hosts.toml is read at each pull; only a new config_path needs systemctl restart containerd, which leaves containers running",
			"CRI does not read config_path beside registry.mirrors or registry.configs in config.toml: take those away",
			"ctr reads it only when told: ctr images pull --hosts-dir /etc/containerd/certs.d NAME",
			hostsNote,
			"server is set, so that nothing goes around berth; containerd 1.6 needs the host entry too",
			whoPulls(l, "the pull secret of the image, or ctr --user"),
		},
	}
	p.Notes = append(p.Notes, certificate(l, fmt.Sprintf("a file, and name it in hosts.toml below [host.%q]: ca = \"/etc/berth/ca.pem\"", l.URL()))...)
	return p, nil
}

// nerdctl reads containerd's hosts.toml by itself.
func nerdctl(o Options) (Plan, error) {
	l, err := o.unchanged()
	if err != nil {
		return Plan{}, err
	}
	p := Plan{
		Files: []File{
			{Path: "/etc/containerd/certs.d/_default/hosts.toml", Content: hostsTOML(l), When: "nerdctl as root"},
			{Path: "~/.config/containerd/certs.d/_default/hosts.toml", Content: hostsTOML(l), When: "rootless nerdctl"},
		},
		Notes: []string{
			"it is read at each pull; nothing has to be restarted",
			hostsNote,
			"rootless containerd has a network of its own: localhost there is not this machine's, so berth needs a listener on an address that it reaches",
			"nerdctl build asks buildkitd: see berth setup buildkit",
			whoPulls(l, "nerdctl login "+l.Address),
		},
	}
	p.Notes = append(p.Notes, certificate(l, "a file, and name it in hosts.toml: ca = \"/etc/berth/ca.pem\"")...)
	return p, nil
}
