// Package doctor looks at how the clients of this machine are configured: whether their
// pulls go through this node, as whom, where they would go around it, and whether a push
// would come to it. It reads the clients' own files and asks the daemons what they are; it
// changes nothing, and says for each fault what to do.
package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/setup"
)

// Report is what was found.
type Report struct {
	Clients []Client `json:"clients"`
}

// OK says that nothing is wrong.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Clients, func(c Client) bool { return len(c.Findings) > 0 })
}

// Client is one kind of client on this machine.
type Client struct {
	Name string `json:"client"`
	// File is its configuration.
	File string `json:"file"`
	// Version and Store are what its daemon says of itself; empty: it was not asked, or is
	// not to be reached.
	Version string `json:"version,omitempty"`
	Store   string `json:"store,omitempty"`
	// Ways are those of pulls and pushes, by registry.
	Ways     []Way     `json:"registries"`
	Findings []Finding `json:"findings"`
}

// Way is where a client goes for one registry.
type Way struct {
	Registry string `json:"registry"`
	// Through is the address of this node that pulls go to; empty: none.
	Through string `json:"through"`
	// Who is as whom they come: an organisation, or what decides.
	Who string `json:"who,omitempty"`
	// Around are the hosts that may be asked besides.
	Around []string `json:"around"`
	// Push is where pushes go: the registry, or this node, which refuses them.
	Push string `json:"push"`
	// Canary says that a pull by the client itself was seen to come to this node.
	Canary bool `json:"canary,omitempty"`
}

// Problem is what kind of fault there is.
type Problem string

// The problems.
const (
	WrongMirror  Problem = "wrong_mirror"
	Default      Problem = "default"
	OldDaemon    Problem = "old_daemon"
	Port         Problem = "port"
	Scheme       Problem = "scheme"
	MissingToken Problem = "missing_token"
	Unreadable   Problem = "unreadable"
	PushCaught   Problem = "push_caught"
	Bypass       Problem = "bypass"
	TLS          Problem = "tls"
	ExposedToken Problem = "exposed_token"
	NotListening Problem = "not_listening"
)

// Finding is one fault, and its cure.
type Finding struct {
	Problem Problem `json:"problem"`
	// Registries are those that it is about; none: all.
	Registries []string `json:"registries"`
	File       string   `json:"file,omitempty"`
	Message    string   `json:"message"`
	Cure       string   `json:"cure"`
	// Run is a command that does it, where one can.
	Run string `json:"run,omitempty"`
}

// Options say what to look at.
type Options struct {
	setup.Options

	// Client is the one to look at. If empty, all that are on this machine.
	Client string
	// Command is how berth is called with the configuration in use.
	Command string
	// DockerSocket is where dockerd answers. If empty, /var/run/docker.sock.
	DockerSocket string
	// Canaries are repositories, with their registries, that each client is to pull a tag
	// of that is not there. Seen says whether that pull came to the node.
	Canaries []string
	Seen     func(ctx context.Context, client, registry, tag string) (bool, error)
}

// kind is one kind of client: how it is told that it is here, and how its files are read.
type kind struct {
	name     string
	programs []string
	files    []string
	look     func(*look)
	// pull has the client pull an image; nil: it cannot be told to.
	pull func(ctx context.Context, l *look, ref string) error
}

func kinds() []kind {
	return []kind{
		{"docker", []string{"dockerd"}, []string{"/etc/docker/daemon.json", "/etc/docker/certs.d", "/var/run/docker.sock"}, (*look).docker, dockerPull},
		{"containerd", []string{"containerd"}, []string{"/etc/containerd/certs.d"}, (*look).containerd, containerdPull},
		{"nerdctl", []string{"nerdctl"}, nil, (*look).hosts, command("nerdctl", "pull", "--quiet")},
		{"podman", []string{"podman", "skopeo", "buildah"}, nil, (*look).registriesConf, command("podman", "pull", "--quiet")},
		{"crio", []string{"crio"}, []string{"/etc/crio"}, (*look).registriesConf, command("crictl", "pull")},
		{"buildkit", []string{"buildkitd"}, []string{"/etc/buildkit/buildkitd.toml"}, (*look).buildkit, nil},
		{"k3s", []string{"k3s", "rke2"}, []string{"/etc/rancher"}, (*look).k3s, command("k3s", "crictl", "pull")},
	}
}

// Clients are the names of those that Look knows.
func Clients() (names []string) {
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// Look looks at the clients.
func Look(ctx context.Context, o Options) (Report, error) {
	r := Report{Clients: []Client{}}
	for _, k := range kinds() {
		if o.Client != "" && o.Client != k.name || o.Client == "" && !k.here() {
			continue
		}
		_, err := setup.For(k.name, o.Options)
		l := &look{ctx: ctx, o: o, client: Client{Name: k.name, File: o.File, Ways: []Way{}, Findings: []Finding{}}}
		if l.client.File == "" {
			l.client.File = setup.DefaultFile(k.name)
		}
		if err != nil {
			l.find(Finding{Problem: NotListening, Message: err.Error(), Cure: "change the listeners, and look again"})
		} else {
			k.look(l)
		}
		if k.pull != nil {
			if err := l.canaries(k.pull); err != nil {
				return r, err
			}
		}
		r.Clients = append(r.Clients, l.client)
	}
	if o.Client != "" && len(r.Clients) == 0 {
		return r, fmt.Errorf("%w %q: choose one of %s", setup.ErrUnknownClient, o.Client, strings.Join(Clients(), ", "))
	}
	return r, nil
}

// here says whether there is such a client on this machine.
func (k kind) here() bool {
	for _, p := range k.programs {
		if _, err := exec.LookPath(p); err == nil {
			return true
		}
	}
	return slices.ContainsFunc(k.files, func(f string) bool { _, err := os.Lstat(f); return err == nil })
}

// look is one client while it is looked at.
type look struct {
	ctx    context.Context
	o      Options
	client Client
	// roots are the folders in which a hosts.toml is looked for.
	roots []string
	// noCRI says that there is no CRI in this containerd.
	noCRI bool
}

// shared says that the client's configuration is not berth's own file.
func (l *look) shared() bool { return filepath.Base(l.client.File) != filepath.Base(setup.PodmanConf) }

// find adds a fault; one that is there already gets the registries of f too.
func (l *look) find(f Finding) {
	for i := range l.client.Findings {
		had := &l.client.Findings[i]
		if had.Problem == f.Problem && had.Cure == f.Cure && had.Message == f.Message {
			had.Registries = append(had.Registries, f.Registries...)
			return
		}
	}
	if f.Registries == nil {
		f.Registries = []string{}
	}
	l.client.Findings = append(l.client.Findings, f)
}

// write is the command that leads the client here.
func (l *look) write() string {
	c := l.o.Command + " setup " + l.client.Name + " --write"
	if l.o.Organisation != "" {
		c += " --org " + l.o.Organisation
	}
	if l.o.File != "" {
		c += " --file " + quote(l.o.File)
	}
	return c
}

// anew is the command that puts the file in the way aside and writes a new one.
func (l *look) anew(file string) string {
	switch {
	case filepath.Base(file) == "hosts.toml" && filepath.Dir(filepath.Dir(file)) != l.certs():
		return l.besides(file)
	case file == l.client.File && l.shared(), filepath.Base(file) == "registries.conf" && file != l.client.File:
		return l.write() // what is berth's wins there, and the rest is needed
	}
	return fmt.Sprintf("mv %s %s && %s", quote(file), quote(file+".before-berth-doctor"), l.write())
}

// besides is write, after the folder of a hosts.toml has been put aside where it lies in a
// folder that goes before berth's.
func (l *look) besides(file string) string {
	dir, own := filepath.Dir(file), l.certs()
	if filepath.Dir(dir) == own || !slices.Contains(l.roots, own) {
		return l.write()
	}
	return fmt.Sprintf("mv %s %s && %s", quote(dir), quote(dir+".before-berth-doctor"), l.write())
}

// certs is where berth writes a hosts.toml for each registry: beside the configuration.
func (l *look) certs() string { return filepath.Join(filepath.Dir(l.client.File), "certs.d") }

// quote is s for a shell.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._:-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
