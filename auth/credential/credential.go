package credential

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"

	"berth/oci"

	"berth/internal/secret"
)

// Credential is what one organisation presents to one registry, as it was when
// it was looked up. It is not changed afterwards: a new secret is a new
// Credential with a new Fingerprint. A nil *Credential is nobody.
type Credential struct {
	// Name is the account, as people call it.
	Name string
	// Organisation is whose it is. Empty: the registry's own credential, which
	// is used as the shared principal.
	Organisation string
	// Registry is the canonical name of the registry.
	Registry string
	// Username and Password are for the registry. DigitalOcean takes a token as
	// both, so that the one may be as secret as the other; an empty Username
	// means that Password serves as both.
	Username, Password secret.Text
	// Fingerprint stands for the credential in keys and logs: whose rights those are
	// that were proven with it.
	Fingerprint string
	// Version stands for this very secret: for what a registry thought of it, and for
	// the tokens that it gave for it. It is another one than Fingerprint where the secret
	// changes by itself, as those of helpers do, and the rights stay.
	Version string
	// entry is the configuration's entry of a helper, whose secrets change by themselves.
	entry string
	// until is when it ends; zero: nobody knows.
	until time.Time

	// renew has a secret that was refused asked for again, where it may have
	// expired; nil: it does not do so by itself.
	renew func() bool
}

// Expired hears that a registry refused c, and says whether that may only be
// because it is old: then whoever looks it up has a new one.
func (c *Credential) Expired() bool { return c.renew != nil && c.renew() }

// Shared says whether c belongs to no organisation, as nobody does.
func (c *Credential) Shared() bool { return c == nil || c.Organisation == "" }

// Principal is as whom an origin is asked with c.
func (c *Credential) Principal() oci.Principal {
	if c == nil {
		return oci.Principal{}
	}
	return oci.Principal{Organisation: c.Organisation, Fingerprint: c.Fingerprint}
}

// UserAndPassword are the Basic credentials.
func (c *Credential) UserAndPassword() (user, password string) {
	password = c.Password.Reveal()
	if c.Username.Empty() {
		return password, password
	}
	return c.Username.Reveal(), password
}

// ScopeSecret is what nodes that share what was pulled with c must have in common: its
// secret, or of a helper's accounts the configuration's entry, as for the Fingerprint.
func (c *Credential) ScopeSecret() secret.Text {
	if c.entry != "" {
		return secret.New(c.entry)
	}
	return c.Password
}

// String names the credential without user name and secret.
func (c *Credential) String() string {
	switch {
	case c == nil:
		return "no account"
	case c.Organisation == "":
		return fmt.Sprintf("this node's account for %s", c.Registry)
	}
	return fmt.Sprintf("account %q of %s for %s", c.Name, c.Organisation, c.Registry)
}

// GoString is String.
func (c *Credential) GoString() string { return c.String() }

// Format is String, whatever the verb.
func (c *Credential) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, c.String()) // a fmt.State never fails
}

// LogValue is what a log line may say.
func (c *Credential) LogValue() slog.Value {
	if c == nil {
		return slog.StringValue(c.String())
	}
	return slog.GroupValue(
		slog.String("organisation", c.Organisation),
		slog.String("registry", c.Registry),
		slog.String("account", c.Name),
		slog.String("fingerprint", c.Fingerprint))
}

// MarshalJSON leaves user name and secret out.
func (c *Credential) MarshalJSON() ([]byte, error) {
	if c == nil {
		return []byte("null"), nil
	}
	return json.Marshal(map[string]string{
		"organisation": c.Organisation, "registry": c.Registry, "account": c.Name, "fingerprint": c.Fingerprint,
	})
}
