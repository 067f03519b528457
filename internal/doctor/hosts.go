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

	"berth/internal/setup"
)

// host is one table of a hosts.toml, or its top.
type host struct {
	Server       string          `toml:"server"`
	Capabilities []string        `toml:"capabilities"`
	CA           any             `toml:"ca"`
	SkipVerify   bool            `toml:"skip_verify"`
	Header       map[string]any  `toml:"header"`
	Hosts        map[string]host `toml:"host"`
	url          string
}

func (h host) can(what string) bool {
	return len(h.Capabilities) == 0 || slices.Contains(h.Capabilities, what)
}

// hosts looks at a hosts.toml for each registry, beside the client's configuration.
func (l *look) hosts() { l.hostsIn(l.beside("certs.d")) }

func (l *look) hostsIn(certs string) {
	for _, r := range l.o.Registries {
		l.registry(certs, r)
	}
	fallback := filepath.Join(certs, "_default", "hosts.toml")
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

// registry looks at the file that decides about one registry.
func (l *look) registry(certs string, r setup.Registry) {
	way := Way{Registry: r.Name, Around: []string{}, Push: r.Server}
	defer func() { l.client.Ways = append(l.client.Ways, way) }()
	path := filepath.Join(certs, r.Name, "hosts.toml")
	all, err := readHosts(path)
	if errors.Is(err, fs.ErrNotExist) {
		if all, err = readHosts(filepath.Join(certs, "_default", "hosts.toml")); err == nil {
			path = filepath.Join(certs, "_default", "hosts.toml")
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		way.Around = append(way.Around, r.Server)
		l.find(Finding{Problem: Bypass, Registries: []string{r.Name}, Message: "pulls go around berth: there is no hosts.toml for the registry in " + certs, Cure: "write one", Run: l.write()})
		return
	}
	if err != nil {
		l.unreadable(path, []string{r.Name}, err)
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
	if errors.Is(err, fs.ErrPermission) {
		f.Cure, f.Run = "run this as root", ""
	}
	l.find(f)
}

// readHosts reads a hosts.toml: its hosts in their order, and what is asked last.
func readHosts(path string) ([]host, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var top host
	if err := toml.Unmarshal(text, &top); err != nil {
		return nil, fmt.Errorf("it is no hosts.toml: %w", err)
	}
	all := make([]host, 0, len(top.Hosts)+1)
	for at, h := range top.Hosts {
		h.url = at
		all = append(all, h)
	}
	order := func(h host) int { return strings.Index(string(text), h.url) }
	slices.SortFunc(all, func(a, b host) int { return order(a) - order(b) })
	top.url, top.Hosts = top.Server, nil
	return append(all, top), nil
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
