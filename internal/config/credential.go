package config

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/registry"
	"berth/internal/suggest"
	"berth/oci"
)

// Credential is an organisation's account at one registry.
type Credential struct {
	// What the account is called, in organisation+account, in messages and in
	// metrics. Required, once for each registry of an organisation; any text
	// without a colon or a slash, at most 128 bytes.
	Name string `yaml:"name"`

	// The registry it is for, by name or alias. Required. One that is not
	// configured is a warning, and the credential is never used.
	Registry string `yaml:"registry"`

	// The repositories it is for, as patterns in which * stands for any one
	// component and ** for any number of them, none too: acme/** is acme and
	// everything below it. The pattern with more components written out is more
	// specific. Default: all.
	Repositories []string `yaml:"repositories"`

	Account
}

// Account is a user name with exactly one source of its secret: password_file,
// password, password_credential, docker_config or helper. Files are watched: a
// new secret is used within a second. They belong to root or to the service's
// user, and nobody else may read them. One that is taken away, emptied, opened to
// others or unreadable goes on serving for half a minute, in case it is being
// replaced; then the account has no secret. A helper is asked every 15 minutes, and at
// a reload. One that fails costs nobody the account before its secret ends: when that
// says so (Amazon's and Azure's do), else an hour after it was given.
type Account struct {
	// The user name. Required with password_file, password and
	// password_credential, but for digitalocean, where the token serves as both;
	// not allowed with docker_config and helper, which know it.
	Username string `yaml:"username"`

	// A file that holds the password or token; one newline at its end is cut.
	PasswordFile string `yaml:"password_file"`

	// The password or token itself. In drop-ins only.
	Password Secret `yaml:"password"`

	// The name of a systemd credential (LoadCredential=) that holds the password
	// or token. Not in drop-ins.
	PasswordCredential string `yaml:"password_credential"`

	// A file as "docker login" writes it (config.json); the entry for the registry
	// is used. Helpers, stores and identity tokens in it are refused.
	DockerConfig string `yaml:"docker_config"`

	// A credential helper, asked for the registry. Not in drop-ins.
	Helper *Helper `yaml:"helper"`

	// At is where it stands.
	At Place `yaml:"-"`

	// Folder is what PasswordFile and DockerConfig may not leave, not even by a
	// symbolic link (open them through os.Root). Empty in the main file, whose
	// files may be anywhere.
	Folder string `yaml:"-"`
}

// Helper is a program that tells a credential.
type Helper struct {
	// The helper, one of those listed under helpers: ecr-login stands for
	// docker-credential-ecr-login. Required.
	Name string `yaml:"name"`

	// Variables that are added to its environment. Default: none.
	Env map[string]string `yaml:"env"`
}

const digitalOcean = "registry.digitalocean.com"

func (a *Account) resolve(in folder) {
	a.PasswordFile = in.absolute(a.PasswordFile)
	a.DockerConfig = in.absolute(a.DockerConfig)
	a.Folder = in.jail
}

func (k *checker) credentials(o *Organisation, known *names, path string) {
	seen := map[string]map[string]bool{} // by registry
	for i := range o.Credentials {
		c, at := &o.Credentials[i], indexed(path, i)
		if seen[c.Registry] == nil {
			seen[c.Registry] = map[string]bool{}
		}
		k.accountName(at+".name", c.Name, "for this registry", seen[c.Registry])
		switch {
		case c.Registry == "":
			k.errorf(at+".registry", "the registry is missing: name the one that the account is for")
		case !known.knows(c.Registry):
			k.warnf(at+".registry", "registry %s is not configured, so the account is never used: add it under registries%s", quote(c.Registry), known.orMeant(c.Registry))
		}
		for j, pattern := range c.Repositories {
			if !validPattern(pattern) {
				k.errorf(indexed(at+".repositories", j), "%s is no pattern for repositories: write acme/app, acme/*, acme/** or **, with whole components, in lower case, without the registry or a tag", quote(pattern))
			}
		}
		k.account(&c.Account, at, k.isDigitalOcean(c.Registry, o))
	}
}

func (k *checker) isDigitalOcean(name string, o *Organisation) bool {
	for _, registries := range []map[string]Registry{o.Registries, k.c.Registries} {
		if r, ok := registries[name]; ok {
			return r.Type == registry.DigitalOcean
		}
	}
	return name == digitalOcean
}

// accountName checks what a person calls an account or a token. A colon would
// end the user name of Basic authentication (RFC 7617).
func (k *checker) accountName(path, name, where string, seen map[string]bool) {
	if err := CheckName(name); err != nil {
		k.errorf(path, "%s", err)
	} else if seen[name] {
		k.errorf(path, "%s was already used %s: choose another name", quote(name), where)
	}
	seen[name] = true
}

// CheckName says why neither an account nor a token can be called so.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is missing: write one")
	case len(name) > 128 || name != strings.TrimSpace(name) || strings.ContainsAny(name, ":/") || hasControl(name):
		return errors.New(quote(name) + " is no name: use at most 128 bytes, without a colon, a slash, or a space at an end")
	}
	return nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\uFFFD' })
}

// account checks that there is one source of the secret and that it may be used
// here. No message repeats a value: people paste tokens into the wrong key.
func (k *checker) account(a *Account, path string, tokenOnly bool) {
	sources := a.sources()
	switch {
	case len(sources) == 0:
		k.errorf(path, "the account has no secret: give one of password_file, password, password_credential, docker_config, helper")
		return
	case len(sources) > 1:
		k.errorf(path+"."+sources[1], "the account has more than one secret, %s: keep one", strings.Join(sources, " and "))
		return
	}
	k.username(a, path, sources[0], tokenOnly)
	switch sources[0] {
	case "password":
		if k.folder == "" {
			k.errorf(path+".password", "a password in the main file would be read by everyone who may look at it: put it into a file and name that in password_file")
		}
	case "password_file":
		k.ownFile(path+".password_file", a.PasswordFile)
	case "docker_config":
		k.ownFile(path+".docker_config", a.DockerConfig)
	case "password_credential":
		k.systemdCredential(path+".password_credential", a.PasswordCredential)
	case "helper":
		k.helper(a.Helper, path+".helper")
	}
}

func (a *Account) sources() []string {
	var found []string
	for _, s := range []struct {
		key   string
		given bool
	}{
		{"password_file", a.PasswordFile != ""},
		{"password", !a.Password.Empty()},
		{"password_credential", a.PasswordCredential != ""},
		{"docker_config", a.DockerConfig != ""},
		{"helper", a.Helper != nil},
	} {
		if s.given {
			found = append(found, s.key)
		}
	}
	return found
}

func (k *checker) username(a *Account, path, source string, tokenOnly bool) {
	own := source == "docker_config" || source == "helper"
	switch {
	case own && a.Username != "":
		k.errorf(path+".username", "%s knows the user name: remove this", source)
	case !own && a.Username == "" && !tokenOnly:
		k.errorf(path+".username", "the user name is missing: write the account's user name at the registry")
	case len(a.Username) > 255 || strings.Contains(a.Username, ":") || hasControl(a.Username):
		k.errorf(path+".username", "this is no user name: it may not have a colon or a line break, nor more than 255 bytes")
	}
}

// ownFile keeps a drop-in's files in the organisation's own folder.
func (k *checker) ownFile(path, name string) {
	if k.folder != "" && !inside(k.folder, name) {
		k.errorf(path, "an organisation's files must lie in its own folder: move it to %s and write %s/FILE", k.folder, filepath.Base(k.folder))
	}
}

func (k *checker) systemdCredential(path, name string) {
	switch {
	case k.folder != "":
		k.errorf(path, "systemd's credentials belong to the operator: use password_file with a file in %s, or password", k.folder)
	case !plainName(name):
		k.errorf(path, "this is no name of a systemd credential: write the ID from LoadCredential=ID:PATH")
	}
}

func (k *checker) helper(h *Helper, path string) {
	switch {
	case k.folder != "":
		k.errorf(path, "only the main file may name helpers, which are programs: use password_file with a file in %s, or password", k.folder)
	case h.Name == "":
		k.errorf(path+".name", "the name is missing: write one of those under helpers")
	case !slices.Contains(k.c.Helpers, h.Name):
		k.errorf(path+".name", "helper %s is not allowed: add it under helpers%s", quote(h.Name), suggest.Question(h.Name, k.c.Helpers))
	}
	for _, name := range slices.Sorted(maps.Keys(h.Env)) {
		if !validVariable(name) {
			k.errorf(key(path+".env", name), "this is no name of an environment variable: use letters, digits and _")
		}
	}
}

func validVariable(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"
	return s != "" && strings.Trim(s, letters) == "" && (s[0] < '0' || s[0] > '9')
}

// validPattern says whether s is a repository name in which components may be
// * (any one) or ** (any number).
func validPattern(s string) bool {
	if len(s) > 255 {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part != "*" && part != "**" && !oci.ValidName(part) {
			return false
		}
	}
	return true
}
