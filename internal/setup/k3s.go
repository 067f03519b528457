package setup

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v4"
)

// k3s is for k3s and RKE2, which write a hosts.toml for their containerd themselves.
func k3s(o Options) (Plan, error) {
	l, err := o.unchanged()
	if err != nil {
		return Plan{}, err
	}
	content, err := o.putK3s("", l, o.Token.String())
	if err != nil {
		return Plan{}, err
	}
	p := Plan{
		Files: []File{{
			Path: o.File, Merge: true, Content: content,
			put: func(before string) (e edit, err error) {
				e.text, err = o.putK3s(before, l, o.Token.Reveal())
				e.secret = o.hasToken()
				return e, err
			},
			take: func(before string) (string, error) { return takeK3s(before, l) },
		}},
		Then: []string{"systemctl restart k3s (or k3s-agent, rke2-server, rke2-agent)"},
		Notes: []string{
			"the file is read at the start, which leaves containers running; RKE2's is /etc/rancher/rke2/registries.yaml: --file",
			"k3s goes to the registry itself when berth fails: start it with --disable-default-registry-endpoint where that must not be",
			"a node does not push",
			"a pull secret of Kubernetes is for the registry, and berth does not take it: it asks with the organisation's own account",
		},
	}
	if o.Unlisted {
		p.note(`"*" leads all other registries to berth`)
	} else {
		p.note(unlistedNote)
	}
	p.note(whoPulls(l, "configs in this file, which --token-file writes"))
	p.note(certificate(l, fmt.Sprintf("a file, and name it in configs: %q: tls: ca_file", l.Address))...)
	return p, nil
}

// putK3s adds berth to each registry's endpoints, before others.
func (o Options) putK3s(before string, l Listener, token string) (string, error) {
	doc, err := parseYAML(before)
	if err != nil {
		return "", err
	}
	mirrors, err := child(doc, "mirrors", yaml.MappingNode)
	if err != nil {
		return "", err
	}
	names := make([]string, 0, len(o.Registries)+1)
	for _, r := range o.Registries {
		names = append(names, r.Name)
	}
	if o.Unlisted {
		names = append(names, "*")
	}
	for _, name := range names {
		mirror, err := child(mirrors, name, yaml.MappingNode)
		if err != nil {
			return "", err
		}
		endpoints, err := child(mirror, "endpoint", yaml.SequenceNode)
		if err != nil {
			return "", err
		}
		drop(endpoints, l.URL())
		endpoints.Content = slices.Insert(endpoints.Content, 0, scalar(l.URL()))
	}
	if o.hasToken() {
		at := doc
		for _, key := range []string{"configs", l.Address, "auth"} {
			if at, err = child(at, key, yaml.MappingNode); err != nil {
				return "", err
			}
		}
		at.Content = []*yaml.Node{scalar("username"), scalar(o.Organisation), scalar("password"), scalar(token)}
	}
	return writeYAML(doc)
}

// takeK3s is text without l.
func takeK3s(text string, l Listener) (string, error) {
	doc, err := parseYAML(text)
	if err != nil {
		return text, err
	}
	changed := false
	if mirrors := find(doc, "mirrors"); mirrors != nil {
		for i := len(mirrors.Content) - 2; i >= 0; i -= 2 {
			mirror := mirrors.Content[i+1]
			endpoints := find(mirror, "endpoint")
			if endpoints == nil || !drop(endpoints, l.URL()) {
				continue
			}
			changed = true
			if len(endpoints.Content) == 0 {
				remove(mirror, "endpoint")
			}
			if len(mirror.Content) == 0 {
				mirrors.Content = slices.Delete(mirrors.Content, i, i+2)
			}
		}
		if len(mirrors.Content) == 0 {
			remove(doc, "mirrors")
		}
	}
	if configs := find(doc, "configs"); configs != nil && find(configs, l.Address) != nil {
		changed = true
		if config := find(configs, l.Address); config.Kind == yaml.MappingNode {
			if remove(config, "auth"); len(config.Content) == 0 {
				remove(configs, l.Address)
			}
		}
		if len(configs.Content) == 0 {
			remove(doc, "configs")
		}
	}
	if !changed || len(doc.Content) == 0 {
		if changed {
			return "", nil
		}
		return text, nil
	}
	return writeYAML(doc)
}

func parseYAML(text string) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return nil, errors.New("it is no YAML: " + oneLine(err))
	}
	if len(doc.Content) == 0 {
		return &yaml.Node{Kind: yaml.MappingNode}, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("it has no keys: mirrors, configs")
	}
	return root, nil
}

func writeYAML(doc *yaml.Node) (string, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(doc), e.Close()); err != nil {
		return "", err
	}
	return b.String(), nil
}

func scalar(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: s}
}

// find is the value of key in m; nil if it is not there.
func find(m *yaml.Node, key string) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

// child is the value of key in m, which is made if it is not there.
func child(m *yaml.Node, key string, kind yaml.Kind) (*yaml.Node, error) {
	c := find(m, key)
	switch {
	case c == nil:
		c = &yaml.Node{Kind: kind}
		m.Content = append(m.Content, scalar(key), c)
	case c.Kind == yaml.ScalarNode && c.ShortTag() == "!!null":
		*c = yaml.Node{Kind: kind}
	case c.Kind != kind:
		return nil, fmt.Errorf("%s is not what k3s reads there", key)
	}
	return c, nil
}

// drop takes value out of a list, and says whether it was there.
func drop(list *yaml.Node, value string) bool {
	before := len(list.Content)
	list.Content = slices.DeleteFunc(list.Content, func(n *yaml.Node) bool { return n.Value == value })
	return len(list.Content) < before
}

func remove(m *yaml.Node, key string) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content = slices.Delete(m.Content, i, i+2)
			return
		}
	}
}
