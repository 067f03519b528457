//go:build e2e

package e2e

import (
	"fmt"
	"testing"
)

// Two organisations, and what each has upstream. The hashes are bcrypt of the
// passwords beside them.
var (
	acmeUpstream   = login{"acme-bot", "acme-upstream-password"}
	globexUpstream = login{"globex-bot", "globex-upstream-password"}
)

const (
	acmeHash   = "$2a$04$.i4Qw1tpG76AotRrM96Louvx9D4B2iZDMD7rN3/8eZt3pfC/7groy"
	globexHash = "$2a$04$ofnqCOZjaLwW3N7klIh9Me3cLPfnWmtgkZVwcLuZ7aHD0w2nGDZsa"
)

// world is what a test pulls in: registries, and berth before them.
//
//   - acme's registry lets in acme's user only; globex has no account there.
//   - globex's registry lets in globex's user only; acme has an account there
//     whose password is out of date.
//   - hub lets in everybody, and stands where Docker Hub would.
type world struct {
	acme, globex, hub *upstream
	berth             *berth // nil when direct
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		acme:   startRegistry(t, "registry.acme.test", acmeUpstream, acmeHash),
		globex: startRegistry(t, "registry.globex.test", globexUpstream, globexHash),
		hub:    startRegistry(t, "docker.io", login{}, ""),
	}
	if !direct {
		w.berth = startBerth(t, w)
	}
	return w
}

// ref is how an image is pulled through the front: by its full name at berth,
// or by its name at the registry when direct.
func (w *world) ref(i image) string {
	if direct {
		return fmt.Sprintf("%s/%s:%s", i.at.addr, i.repo, i.tag)
	}
	return fmt.Sprintf("%s/%s/%s:%s", w.berth.tokens, i.at.name, i.repo, i.tag)
}

// ownName is an image's name at its own registry. Something in the client's
// configuration must lead it to the front.
func ownName(_ *world, i image) string { return i.at.name + "/" + i.repo + ":" + i.tag }

// host is where the name of an image of this registry leads.
func (w *world) host(u *upstream) string {
	if direct {
		return u.addr
	}
	return w.berth.tokens
}

// mirror is what answers for Docker Hub, to anybody.
func (w *world) mirror() string {
	if direct {
		return w.hub.addr
	}
	return w.berth.open
}

// as is how an organisation's node logs in at the front. When direct, there are
// no organisations, only the registries' own users.
func (w *world) as(organisation string) login {
	if !direct {
		return login{organisation, callerToken(organisation)}
	}
	if organisation == "acme" {
		return acmeUpstream
	}
	return globexUpstream
}
