package setup

import (
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

const (
	hostsNote = "pulls of these registries go to berth and nowhere else, but for one case: when berth fails in the middle of a pull, the bytes of a layer are asked of every host that hosts.toml names"
	pushNote  = "docker login and pushes of these registries go straight to them"
	// Without a server of its own the file would give the registry itself all capabilities,
	// and pulls would go around berth.
	defaultNote  = "certs.d/_default leads pulls of all other registries to berth, and pushes too, which are refused: add a registry under registries: to push to it"
	unlistedNote = "a registry that this node does not know is still pulled from itself, past berth: add it under registries: and run this again, or set unlisted_registries: public"
)

// hostsFiles are a hosts.toml for each registry, below certs, which lead its pulls to l
// and its pushes to the registry itself.
func (o Options) hostsFiles(certs string, l Listener, when string) (files []File) {
	for _, r := range o.Registries {
		files = append(files, o.hostsFile(certs, r.Name, l, []setting{
			{"", "server", quoted(r.Server)},
			{"", "capabilities", list("push")},
		}, when))
	}
	if o.Unlisted {
		files = append(files, o.hostsFile(certs, "_default", l, []setting{{"", "server", quoted(l.URL())}}, when))
	}
	return files
}

// HostDir is the folder below certs that decides about a registry. Of one with a port there
// may be another in containerd's spelling, which goes before (hostDirectory in its
// core/remotes/docker/config).
func HostDir(certs, registry string) string {
	if host, port, ok := strings.Cut(registry, ":"); ok {
		dir := filepath.Join(certs, host+"_"+port+"_")
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	return filepath.Join(certs, registry)
}

func (o Options) hostsFile(certs, name string, l Listener, top []setting, when string) File {
	path := filepath.Join(HostDir(certs, name), "hosts.toml")
	shown := ""
	if o.hasToken() {
		shown = "Basic " + o.Token.String()
	}
	return File{
		Path: path, When: when, Merge: true, Content: tomlText(append(slices.Clone(top), hostSettings(l, shown)...)),
		put: func(before string) (e edit, err error) {
			authorization := keptAuthorization(certs, l)
			if o.hasToken() {
				authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(o.Organisation+":"+o.Token.Reveal()))
			}
			all := slices.Concat(top, trust(filepath.Dir(path), before), hostSettings(l, authorization))
			e.text, err = setTOML(before, all, true)
			e.secret, e.others = authorization != "", otherHosts(before, l)
			return e, err
		},
		take: func(before string) (string, error) { return takeTOML(before), nil },
	}
}

// hostSettings are those of berth among the hosts of a hosts.toml. A header stands below
// berth's own host and nowhere else: at the top it would go to the registry.
func hostSettings(l Listener, authorization string) []setting {
	table := fmt.Sprintf("host.%q", l.URL())
	all := []setting{{table, "capabilities", list("pull", "resolve")}}
	if authorization != "" {
		all = append(all, setting{table + ".header", "authorization", quoted(authorization)})
	}
	return all
}

// trust is what a client trusts the registry itself by: beside a hosts.toml it does not
// look at the certificates in the folder any more.
func trust(dir, before string) (all []setting) {
	var has map[string]any
	_ = toml.Unmarshal([]byte(takeTOML(before)), &has) // what is no TOML is refused elsewhere
	if cas, _ := filepath.Glob(filepath.Join(dir, "*.crt")); len(cas) > 0 && has["ca"] == nil {
		all = append(all, setting{"", "ca", list(cas...)})
	}
	var pairs []string
	certs, _ := filepath.Glob(filepath.Join(dir, "*.cert"))
	for _, cert := range certs {
		key := strings.TrimSuffix(cert, ".cert") + ".key"
		if _, err := os.Lstat(key); err == nil {
			pairs = append(pairs, list(cert, key))
		}
	}
	if len(pairs) > 0 && has["client"] == nil {
		all = append(all, setting{"", "client", "[" + strings.Join(pairs, ", ") + "]"})
	}
	return all
}

// otherHosts are those that a hosts.toml has besides berth's.
func otherHosts(text string, l Listener) []string {
	var doc struct {
		Host map[string]any `toml:"host"`
	}
	if toml.Unmarshal([]byte(takeTOML(text)), &doc) != nil {
		return nil
	}
	delete(doc.Host, l.URL())
	return slices.Sorted(maps.Keys(doc.Host))
}

// keptAuthorization is what an earlier setup put into the files, so that another one
// without a token does not take it away.
func keptAuthorization(certs string, l Listener) string {
	files, _ := filepath.Glob(filepath.Join(certs, "*", "hosts.toml"))
	for _, path := range files {
		text, _, err := readFile(path)
		if err != nil || !strings.Contains(string(text), tomlBegin) {
			continue
		}
		var doc map[string]any
		if toml.Unmarshal(text, &doc) != nil {
			continue
		}
		if header, ok := lookUp(doc, fmt.Sprintf("host.%q.header", l.URL())); ok {
			if s, ok := header["authorization"].(string); ok {
				return s
			}
		}
	}
	return ""
}

// tomlText is a file that has settings and nothing else.
func tomlText(settings []setting) string {
	var b strings.Builder
	table := ""
	for _, s := range settings {
		if s.table != table {
			table = s.table
			fmt.Fprintf(&b, "\n[%s]\n", table)
		}
		fmt.Fprintf(&b, "%s = %s\n", s.key, s.value)
	}
	return b.String()
}
