package node

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/config"
	"berth/internal/registry"
	"berth/internal/secret"
	"berth/oci"

	"berth/auth/credential"
)

// newCredentials is the table of all accounts, the organisations' and the
// shared principal's. It goes on with the secrets of the generation in force.
func (g *generation) newCredentials(specs []*registry.Spec) (*credential.Table, error) {
	o := credential.TableOptions{Key: g.node.key, Metrics: g.node.auth, Logger: g.node.log, Now: g.node.now}
	var before secrets
	if g.node.current != nil {
		o.Before, before = g.node.current.credentials, g.node.current.secrets
	}
	for _, s := range specs {
		if a := g.cfg.Registries[s.Name].Credential; a != nil && s.Organisation == "" {
			o.Entries = append(o.Entries, credential.Entry{
				Name: credential.Shared, Registry: s.Name, Origin: s.Origin, Source: g.secret(before, *a, s),
			})
		}
	}
	at := make(map[registryKey]*registry.Spec, len(specs))
	for _, s := range specs {
		at[keyOf(s)] = s
	}
	for name, org := range g.cfg.Organisations {
		for _, c := range org.Credentials {
			s := cmp.Or(at[registryKey{"", c.Registry}], at[registryKey{name, c.Registry}])
			if s == nil {
				continue // a warning of the configuration says so
			}
			o.Entries = append(o.Entries, credential.Entry{
				Name: c.Name, Organisation: name, Registry: s.Name, Origin: s.Origin,
				Repositories: c.Repositories, Source: g.secret(before, c.Account, s),
			})
		}
	}
	o.Entries = append(o.Entries, g.fleetSecrets(before)...)
	return credential.NewTable(o)
}

// secretFiles are those that the accounts of cfg have their secrets from.
func secretFiles(cfg *config.Config) (files []string) {
	files = fleetFiles(cfg)
	add := func(a *config.Account) {
		switch {
		case a.PasswordFile != "":
			files = append(files, a.PasswordFile)
		case a.PasswordCredential != "":
			files = append(files, credentialFile(a.PasswordCredential))
		case a.DockerConfig != "":
			files = append(files, a.DockerConfig)
		}
	}
	for _, r := range cfg.Registries {
		if r.Credential != nil {
			add(r.Credential)
		}
	}
	for _, o := range cfg.Organisations {
		for i := range o.Credentials {
			add(&o.Credentials[i].Account)
		}
	}
	return files
}

// credentialFile is where systemd has put a credential of the unit.
func credentialFile(name string) string {
	return filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), name)
}

// secrets are where the accounts of one generation have their secrets from. The
// next one takes over what is the same, with what was read: a file that is being
// replaced goes on serving its old secret for its moment, also when somebody else's
// configuration changes.
type secrets map[string]credential.Source

// secret is where an account's secret comes from.
func (g *generation) secret(before secrets, a config.Account, s *registry.Spec) credential.Source {
	hosts := append([]string{s.Name, s.Origin.Host}, s.Aliases...)
	switch {
	case a.PasswordFile != "":
		return g.secrets.keep(before, []string{"file", a.PasswordFile, a.Folder, a.Username}, func() credential.Source {
			return credential.PasswordFile(g.node.fileOf(a.PasswordFile, a.Folder), a.Username)
		})
	case a.PasswordCredential != "":
		path := credentialFile(a.PasswordCredential)
		return g.secrets.keep(before, []string{"credential", path, a.Username}, func() credential.Source {
			return credential.PasswordFile(credential.File{Path: path, Trusted: true, Hung: g.node.hung}, a.Username)
		})
	case a.DockerConfig != "":
		var helpers []string
		if a.Folder == "" { // a drop-in may start no program
			helpers = g.cfg.Helpers
		}
		what := slices.Concat([]string{"docker", a.DockerConfig, a.Folder, strings.Join(helpers, " ")}, hosts)
		return g.secrets.keep(before, what, func() credential.Source {
			return credential.DockerConfig(g.node.fileOf(a.DockerConfig, a.Folder), helpers, hosts...)
		})
	case a.Helper != nil:
		server := helperServer(s)
		what := []string{"helper", a.Helper.Name, server, fmt.Sprintf("%q", a.Helper.Env)}
		return g.secrets.keep(before, what, func() credential.Source {
			return credential.HelperSource(credential.Helper{Name: a.Helper.Name, Env: a.Helper.Env, Server: server, Hung: g.node.hung, Now: g.node.now})
		})
	}
	return credential.Static(a.Username, secret.New(a.Password.Reveal()))
}

// helperServer is how a registry is called in the protocol of helpers: by its
// host, but for Docker Hub, which has kept the URL of its first API there.
func helperServer(s *registry.Spec) string {
	if s.Name == oci.DockerHub {
		return "https://index.docker.io/v1/"
	}
	return s.Origin.Host
}

// keep gives the source that what describes: this generation's, else the one before's,
// else a new one.
func (all secrets) keep(before secrets, what []string, build func() credential.Source) credential.Source {
	key := fmt.Sprintf("%q", what)
	s, ok := all[key]
	if !ok {
		if s, ok = before[key]; !ok {
			s = build()
		}
		all[key] = s
	}
	return s
}

// fromSystemd says whether path lies among the unit's credentials, which systemd
// lets nobody else read, whatever their mode looks like.
func fromSystemd(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if !filepath.IsAbs(dir) {
		return false
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// fileOf is the file called name. One that must not leave folder is named from
// there, as os.Root wants it.
func (n *node) fileOf(name, folder string) credential.File {
	if folder == "" {
		f := secretFile(name)
		f.Hung = n.hung
		return f
	}
	if rel, err := filepath.Rel(folder, name); err == nil {
		name = rel
	}
	return credential.File{Path: name, Directory: folder, Hung: n.hung}
}
