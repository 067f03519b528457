package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"berth/auth"
	"berth/internal/config"
)

// newCredentials is the table of all accounts, the organisations' and the
// shared view's. It goes on with the secrets of the desk in force.
func (d *desk) newCredentials(n *node, specs []*spec) (*auth.Credentials, error) {
	o := auth.CredentialsOptions{Key: n.key, Logger: n.log, Now: n.now}
	var before secrets
	if n.desk != nil {
		o.Before, before = n.desk.credentials, n.desk.secrets
	}
	for _, s := range specs {
		if s.account != nil {
			o.Entries = append(o.Entries, auth.Entry{
				Name: "shared", Registry: s.name, Origin: s.origin, Source: d.secrets.source(before, *s.account, s),
			})
		}
	}
	for name, org := range d.cfg.Organisations {
		for _, c := range org.Credentials {
			s := find(specs, name, c.Registry)
			if s == nil {
				continue // a warning of the configuration says so
			}
			o.Entries = append(o.Entries, auth.Entry{
				Name: c.Name, Organisation: name, Registry: s.name, Origin: s.origin,
				Repositories: c.Repositories, Source: d.secrets.source(before, c.Account, s),
			})
		}
	}
	return auth.NewCredentials(o)
}

func find(specs []*spec, organisation, name string) *spec {
	for _, s := range specs {
		if s.name == name && (s.owner == "" || s.owner == organisation) {
			return s
		}
	}
	return nil
}

// secretFile is an entry of a configuration whose secret is in a file.
type secretFile struct {
	file     auth.File
	username string
	hosts    string // of a Docker configuration; empty: the file is the password
}

// secrets are the files of one desk. The next desk takes them over as they are,
// with what was read from them: a file that has gone bad goes on serving its old
// secret, also when another organisation's configuration changes.
type secrets map[secretFile]auth.Source

// source is where an account's secret comes from.
func (all secrets) source(before secrets, a config.Account, s *spec) auth.Source {
	switch {
	case a.PasswordFile != "":
		return all.file(before, secretFile{file: fileOf(a.PasswordFile, a.Folder), username: a.Username}, nil)
	case a.PasswordCredential != "":
		path := filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), a.PasswordCredential)
		return all.file(before, secretFile{file: auth.File{Path: path, Trusted: true}, username: a.Username}, nil)
	case a.DockerConfig != "":
		hosts := append([]string{s.name, s.origin.Host}, s.aliases...)
		return all.file(before, secretFile{file: fileOf(a.DockerConfig, a.Folder), hosts: strings.Join(hosts, " ")}, hosts)
	case a.Helper != nil:
		return auth.SourceFunc(func(context.Context) (auth.Login, error) {
			return auth.Login{}, fmt.Errorf("credential helper %q: helpers are not supported by this version", a.Helper.Name)
		})
	}
	return auth.Static(a.Username, auth.NewSecret(a.Password.Reveal()))
}

func (all secrets) file(before secrets, f secretFile, hosts []string) auth.Source {
	if s, ok := all[f]; ok {
		return s
	}
	s, ok := before[f]
	switch {
	case ok:
	case hosts != nil:
		s = auth.DockerConfig(f.file, hosts...)
	default:
		s = auth.PasswordFile(f.file, f.username)
	}
	all[f] = s
	return s
}

// fileOf is the file called name. One that must not leave folder is named from
// there, as os.Root wants it.
func fileOf(name, folder string) auth.File {
	if folder == "" {
		return auth.File{Path: name}
	}
	if rel, err := filepath.Rel(folder, name); err == nil {
		name = rel
	}
	return auth.File{Path: name, Directory: folder}
}
