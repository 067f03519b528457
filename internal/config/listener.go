package config

import (
	"errors"
	"net/netip"

	"berth/oci"
)

// Listener is one port where pulls are answered.
type Listener struct {
	// Where to listen. Required. localhost:5000 means 127.0.0.1 and ::1; an IP
	// address as in 10.0.0.1:5000 or [::1]:5000; ":5000" means every address;
	// systemd:NAME takes the sockets that systemd hands over under this name
	// (FileDescriptorName=), as does any address at which systemd holds one. An
	// address that others can reach is refused unless there is tls and callers is
	// token, or allow_remote is true. Needs a restart.
	Address Address `yaml:"address" restart:"yes"`

	// How a caller is known. "token": by user name (organisation, or
	// organisation+account) and one of the organisation's tokens as the password.
	// "open": not at all; everyone is the listener's organisation, or nobody.
	// Default: open.
	Callers Callers `yaml:"callers"`

	// Who everyone is, with callers: open only. Every process that reaches the
	// address can then pull as this organisation, so it may not be combined with
	// allow_remote. It must be an organisation of this configuration. Default:
	// nobody, who sees public images only.
	Organisation string `yaml:"organisation"`

	// The registry that is meant by a name without one. Default: docker.io.
	Registry string `yaml:"registry"`

	// Whether an image name begins with the organisation, as in
	// localhost:5000/acme/ghcr.io/acme/app: optional or required. Say required
	// where several organisations share one dockerd, whose local tags would
	// otherwise be shared too. Required needs callers: token or an organisation.
	// Default: optional.
	OrganisationInName InName `yaml:"organisation_in_name"`

	// Host names under which clients reach this listener, without a port.
	// localhost and IP addresses need not be listed; any other name is refused,
	// since a browser can be led here by a name (DNS rebinding). Default: none.
	Names []string `yaml:"names"`

	// A certificate, to be served over TLS. Default: none, plain HTTP. Needs a
	// restart.
	TLS *TLS `yaml:"tls" restart:"yes"`

	// Allows an address that others can reach without tls or without tokens. May
	// not be combined with callers: open and an organisation: the whole network
	// could then pull as it. Default: false.
	AllowRemote bool `yaml:"allow_remote"`
}

// TLS is a certificate with its key. The files are watched: what is renewed in
// place is used within a second, naming other files needs a restart.
type TLS struct {
	// The certificate and its chain, PEM. Required.
	CertFile string `yaml:"cert_file"`

	// Its private key, PEM: a file of root's or the service's user that nobody
	// else may read. Required.
	KeyFile string `yaml:"key_file"`
}

// Callers is how callers of a listener are known.
type Callers string

// The modes of a listener.
const (
	CallersToken Callers = "token"
	CallersOpen  Callers = "open"
)

// Values are those of callers.
func (Callers) Values() []string { return []string{string(CallersToken), string(CallersOpen)} }

// InName is whether image names begin with the organisation.
type InName string

// The values of organisation_in_name.
const (
	InNameOptional InName = "optional"
	InNameRequired InName = "required"
)

// Values are those of organisation_in_name.
func (InName) Values() []string { return []string{string(InNameOptional), string(InNameRequired)} }

func defaultListener() Listener {
	l := Listener{Address: Address{Host: "localhost", Port: 5000}}
	l.setDefaults("")
	return l
}

func (l *Listener) setDefaults(string) {
	l.Callers = CallersOpen
	l.Registry = oci.DockerHub
	l.OrganisationInName = InNameOptional
}

// MayBind says whether the listener may be served on ip; the error says what to
// change. It is for sockets that systemd hands over, whose address only shows
// at start; written addresses were already checked.
func (l *Listener) MayBind(ip netip.Addr) error {
	if ip.Unmap().IsLoopback() {
		return nil
	}
	return l.mayBeReached()
}

// mayBeReached says whether others than this node may reach the listener.
func (l *Listener) mayBeReached() error {
	if l.AllowRemote || l.TLS != nil && l.Callers == CallersToken {
		return nil
	}
	return errors.New("others than this node can reach this address: listen on localhost, or set tls and callers: token, or allow_remote: true")
}

func (k *checker) listeners(c *Config) {
	if len(c.Listeners) == 0 {
		k.errorf("listeners", "there is no listener, so nothing could be pulled: add one, or remove the key for the default")
	}
	taken := map[string]string{}
	k.taken(taken, c.Admin.Address, "admin.address")
	for i := range c.Listeners {
		path := indexed("listeners", i)
		k.listener(&c.Listeners[i], path)
		k.taken(taken, c.Listeners[i].Address, path+".address")
	}
}

func (k *checker) listener(l *Listener, path string) {
	k.listenerAddress(l, path)
	k.listenerCallers(l, path)
	k.listenerNames(l, path)
	if l.TLS != nil {
		k.required(path+".tls.cert_file", l.TLS.CertFile)
		k.required(path+".tls.key_file", l.TLS.KeyFile)
	}
	switch {
	case l.Registry == "":
		k.errorf(path+".registry", "it is empty: name a registry, or remove the key for %s", oci.DockerHub)
	case !k.names.knows(l.Registry):
		k.errorf(path+".registry", "registry %s is not configured: add it under registries%s", quote(l.Registry), k.names.orMeant(l.Registry))
	}
}

func (k *checker) listenerAddress(l *Listener, path string) {
	if l.Address.IsZero() {
		k.errorf(path+".address", "the address is missing: write one, such as localhost:5000")
		return
	}
	if l.Address.Socket != "" || l.Address.Loopback() {
		return
	}
	if err := l.mayBeReached(); err != nil {
		k.errorf(path+".address", "%w", err)
	}
	if l.TLS == nil && l.Callers == CallersToken {
		k.warnf(path+".address", "tokens cross the network readable for everyone on the way: set tls")
	}
}

func (k *checker) listenerCallers(l *Listener, path string) {
	switch {
	case l.Callers == CallersToken && l.Organisation != "":
		k.errorf(path+".organisation", "with callers: token the caller says the organisation: remove it, or set callers: open")
	case l.Organisation == "":
		if l.Callers == CallersOpen && l.OrganisationInName == InNameRequired {
			k.errorf(path+".organisation_in_name", "nobody could pull here, since every caller is nobody: set callers: token or an organisation")
		}
		return
	case l.AllowRemote:
		k.errorf(path+".allow_remote", "the whole network could pull as organisation %s: remove allow_remote, or set callers: token", quote(l.Organisation))
	}
	if !ValidOrganisation(l.Organisation) {
		k.errorf(path+".organisation", "%s is no organisation's name: %s", quote(l.Organisation), organisationForm)
	} else if !k.mayBeOrganisation(l.Organisation) {
		k.errorf(path+".organisation", "organisation %s does not exist: add it under organisations or as a drop-in", quote(l.Organisation))
	} else if k.othersThan(l.Organisation) {
		// Without their number: it would be said again with each that comes.
		k.warnf(path+".organisation", "whoever reaches this address pulls as organisation %s, the containers of the other organisations on this node too: set callers: token", quote(l.Organisation))
	}
}

// othersThan says whether there are other organisations than this one.
func (k *checker) othersThan(name string) bool {
	for other := range k.c.Organisations {
		if other != name {
			return true
		}
	}
	return false
}

func (k *checker) listenerNames(l *Listener, path string) {
	for i, name := range l.Names {
		if !validHost(name) {
			k.errorf(indexed(path+".names", i), "%s is no host name: write it in lower case, without port, scheme or wildcard, as in berth.internal", quote(name))
		}
	}
}

// taken reports an address that another listener has, or the admin page.
func (k *checker) taken(seen map[string]string, a Address, path string) {
	if a.IsZero() || a.Port == 0 && a.Socket == "" {
		return
	}
	for _, key := range a.keys() {
		if other, ok := seen[key]; ok {
			k.errorf(path, "%s is already taken by %s: choose another port", a, other)
			return
		}
		seen[key] = path
	}
}
