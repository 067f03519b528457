package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"berth/internal/setup"
)

// host is one table of a hosts.toml, or its top.
type host struct {
	Server       string          `toml:"server"`
	Capabilities []string        `toml:"capabilities"`
	CA           any             `toml:"ca"`
	SkipVerify   bool            `toml:"skip_verify"`
	OverridePath bool            `toml:"override_path"`
	Header       map[string]any  `toml:"header"`
	Hosts        map[string]host `toml:"host"`
	url          string
}

func (h host) can(what string) bool {
	return len(h.Capabilities) == 0 || slices.ContainsFunc(h.Capabilities, func(c string) bool { return strings.EqualFold(c, what) })
}

// authorization is what the client is to show there.
func (h host) authorization() string {
	for key, v := range h.Header {
		if values := texts(v); strings.EqualFold(key, "authorization") && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

// root is the path below which containerd asks: it adds /v2 unless it is told not to.
func (h host) root() string {
	u, err := url.Parse(h.url)
	if err != nil {
		return h.url
	}
	if u.Path = strings.TrimSuffix(u.Path, "/"); !h.OverridePath && !strings.HasSuffix(u.Path, "/v2") {
		u.Path += "/v2"
	}
	return u.String()
}

// texts are the values of a key that takes one or a list of them.
func texts(v any) (all []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, one := range v {
			if s, ok := one.(string); ok {
				all = append(all, s)
			}
		}
	}
	return all
}

// hosts looks at a hosts.toml for each registry, beside the client's configuration.
func (l *look) hosts() { l.hostsIn(l.certs()) }

func (l *look) hostsIn(roots ...string) {
	l.roots = roots
	for _, r := range l.o.Registries {
		l.registry(r)
	}
	fallback := filepath.Join(roots[0], "_default", "hosts.toml")
	if there := l.hostsFile("_default"); there != "" {
		fallback = there
	}
	doc, err := readHosts(fallback)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if l.o.Unlisted {
			l.find(Finding{Problem: Default, File: fallback, Message: "registries that are not configured go around berth, which would answer for them: there is no certs.d/_default", Cure: "write it", Run: l.write()})
		}
	case err != nil:
		l.unreadable(fallback, nil, err)
	default:
		ours := slices.ContainsFunc(doc, func(h host) bool { _, ok := l.listener(h.url); return ok })
		switch {
		case l.o.Unlisted && !ours:
			l.find(Finding{Problem: Default, File: fallback, Message: "certs.d/_default does not lead to berth", Cure: "take it away and write berth's", Run: l.anew(fallback)})
		case !l.o.Unlisted && ours:
			l.find(Finding{Problem: Default, File: fallback, Message: "certs.d/_default leads all registries to berth, pushes too, and berth refuses those that are not configured", Cure: "take it away, or set unlisted_registries: public", Run: l.anew(fallback)})
		}
	}
}

// hostsFile is the file that decides about a registry; empty: there is none. In each root,
// in their order, the first folder that is there counts, also one without a hosts.toml:
// that of the registry, in containerd's spelling or as it is, or _default
// (containerd, core/remotes/docker/config).
func (l *look) hostsFile(registry string) string {
	for _, root := range l.roots {
		for _, dir := range []string{setup.HostDir(root, registry), filepath.Join(root, "_default")} {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				return filepath.Join(dir, "hosts.toml")
			}
		}
	}
	return ""
}

// registry looks at the file that decides about one registry.
func (l *look) registry(r setup.Registry) {
	way := Way{Registry: r.Name, Around: []string{}, Push: r.Server}
	defer func() { l.client.Ways = append(l.client.Ways, way) }()
	path := l.hostsFile(r.Name)
	if path == "" {
		way.Around = append(way.Around, r.Server)
		l.find(Finding{Problem: Bypass, Registries: []string{r.Name}, Message: "pulls go around berth: there is no hosts.toml for the registry in " + strings.Join(l.roots, ", "), Cure: "write one", Run: l.write()})
		return
	}
	all, err := readHosts(path)
	if err != nil {
		way.Around = append(way.Around, r.Server)
		if errors.Is(err, fs.ErrNotExist) {
			l.find(Finding{Problem: Bypass, Registries: []string{r.Name}, File: path, Message: "pulls go around berth: this folder is the one that counts for the registry, and it has no hosts.toml", Cure: "write one", Run: l.besides(path)})
			return
		}
		l.unreadable(path, []string{r.Name}, fmt.Errorf("%w: its client then goes around berth", err))
		return
	}
	if all[len(all)-1].url == "" {
		all[len(all)-1].url = r.Server
	}
	var near []string
	for _, h := range all {
		at, ours := l.listener(h.url)
		switch {
		case !h.can("pull") && !h.can("resolve"):
		case ours && way.Through == "":
			way.Through = h.url
			l.ourHost(path, r, h, at, &way)
		case !ours && way.Through == "" && loopback(h.url):
			near = append(near, h.url)
			way.Around = append(way.Around, h.url)
		case !ours:
			way.Around = append(way.Around, h.url)
		}
	}
	l.pushes(path, r, all, &way)
	switch {
	case way.Through == "" && len(near) > 0:
		l.nearly(path, r, near[0])
	case way.Through == "" && len(way.Around) == 0:
		l.find(Finding{Problem: WrongMirror, Registries: []string{r.Name}, File: path, Message: "no host in it is for pulls (one counts only with a table of its own)", Cure: "put that file aside and write berth's", Run: l.anew(path)})
	case way.Through == "":
		l.find(Finding{Problem: WrongMirror, Registries: []string{r.Name}, File: path, Message: "pulls go around berth, to " + strings.Join(way.Around, ", "), Cure: "put that file aside and write berth's", Run: l.anew(path)})
	case len(way.Around) > 0:
		l.find(Finding{Problem: Bypass, Registries: []string{r.Name}, File: path, Message: "pulls may go around berth, to " + strings.Join(way.Around, ", "), Cure: "take away the capabilities pull and resolve of all hosts but berth", Run: l.anew(path)})
	}
}

// pushes looks at who is asked for a push first.
func (l *look) pushes(path string, r setup.Registry, all []host, way *Way) {
	for _, h := range all {
		if !h.can("push") {
			continue
		}
		if way.Push = h.url; slices.ContainsFunc(l.o.Listeners, func(at setup.Listener) bool { return at.Is(h.url) }) {
			l.find(Finding{Problem: PushCaught, Registries: []string{r.Name}, File: path, Message: "docker push comes to berth, which refuses it", Cure: "make the registry itself the server, with the capability push alone", Run: l.write()})
		}
		return
	}
}

// nearly says what is wrong with an address of this machine that is not berth's.
func (l *look) nearly(path string, r setup.Registry, at string) {
	f := Finding{Problem: WrongMirror, Registries: []string{r.Name}, File: path, Message: at + " is no address of berth: it answers at " + l.addresses(), Cure: "put that file aside and write berth's", Run: l.anew(path)}
	u, err := url.Parse(at)
	for _, listener := range l.o.Listeners {
		ours, _ := url.Parse(listener.URL())
		switch {
		case err != nil || ours == nil:
		case u.Port() == ours.Port() && u.Scheme != ours.Scheme:
			f.Problem, f.Message = Scheme, fmt.Sprintf("%s is spoken to as %s, and answers as %s", at, u.Scheme, ours.Scheme)
		case u.Scheme == ours.Scheme && u.Port() != ours.Port() && f.Problem == WrongMirror:
			f.Problem, f.Message = Port, fmt.Sprintf("%s is another port: berth answers at %s", at, l.addresses())
		}
	}
	if l.client.Name == "docker" && path == l.client.File {
		f.Cure, f.Run = "take it out of registry-mirrors, and then: "+l.write()+" && systemctl reload docker", ""
	}
	l.find(f)
}

func (l *look) addresses() string {
	var all []string
	for _, at := range l.o.Listeners {
		all = append(all, at.URL())
	}
	return strings.Join(all, ", ")
}

// listener is the one that url leads to.
func (l *look) listener(url string) (setup.Listener, bool) {
	for _, at := range l.o.Listeners {
		if at.Is(url) {
			return at, true
		}
	}
	return setup.Listener{}, false
}

func (l *look) unreadable(path string, registries []string, err error) {
	f := Finding{Problem: Unreadable, Registries: registries, File: path, Message: path + " cannot be read: " + firstLine(err), Cure: "put it aside and write it anew", Run: l.anew(path)}
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.Cure, f.Run = "run this as root", ""
	case path == l.client.File && l.shared():
		f.Cure, f.Run = "mend it: it has more in it than berth's, which the client needs", ""
	}
	l.find(f)
}

// readHosts reads a hosts.toml: its hosts in the order in which they are asked, and what is
// asked last. What it takes, and what it overlooks, is what containerd does.
func readHosts(path string) ([]host, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var top host
	if err := toml.Unmarshal(text, &top); err != nil {
		return nil, fmt.Errorf("it is no hosts.toml: %w", err)
	}
	var all []host
	for _, name := range hostOrder(text) {
		h := top.Hosts[name]
		h.url = withScheme(name)
		all = append(all, h)
	}
	if top.url = withScheme(top.Server); top.Server == "" {
		top.Capabilities = nil // without a server they are not heeded
	}
	top.Hosts = nil
	for _, h := range append(all, top) {
		for _, c := range h.Capabilities {
			if !slices.Contains([]string{"pull", "resolve", "push", "referrers"}, strings.ToLower(c)) {
				return nil, fmt.Errorf("it has an unknown capability %.40q", c)
			}
		}
	}
	return append(all, top), nil
}

// hostOrder are the hosts that have a table of their own in the text, in its order. One
// that stands otherwise in it is overlooked.
func hostOrder(text []byte) (names []string) {
	var p unstable.Parser
	for p.Reset(text); p.NextExpression(); {
		if p.Expression().Kind != unstable.Table {
			continue
		}
		var parts []string
		for key := p.Expression().Key(); key.Next(); {
			parts = append(parts, string(key.Node().Data))
		}
		if len(parts) > 1 && parts[0] == "host" && !slices.Contains(names, parts[1]) {
			names = append(names, parts[1])
		}
	}
	return names
}

func withScheme(server string) string {
	if server != "" && !strings.HasPrefix(server, "http") {
		return "https://" + server
	}
	return server
}

// maxFile bounds what is read of a client's file.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no file")
	case info.Size() > maxFile:
		return nil, errors.New("it is too large")
	}
	return os.ReadFile(path)
}

func loopback(at string) bool {
	u, err := url.Parse(at)
	return err == nil && (u.Hostname() == "localhost" || strings.HasPrefix(u.Hostname(), "127.") || u.Hostname() == "::1")
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
