package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"berth/auth"
	"berth/internal/config"
)

// newCredentials is the table of all accounts, the organisations' and the
// shared view's.
func (n *node) newCredentials(cfg *config.Config, specs []*spec) (*auth.Credentials, error) {
	o := auth.CredentialsOptions{Key: n.key, Logger: n.log, Now: n.now}
	for _, s := range specs {
		if s.account != nil {
			o.Entries = append(o.Entries, auth.Entry{
				Name: "shared", Registry: s.name, Origin: s.origin, Source: source(*s.account, s),
			})
		}
	}
	for name, org := range cfg.Organisations {
		for _, c := range org.Credentials {
			s := find(specs, name, c.Registry)
			if s == nil {
				continue // a warning of the configuration says so
			}
			o.Entries = append(o.Entries, auth.Entry{
				Name: c.Name, Organisation: name, Registry: s.name, Origin: s.origin,
				Repositories: c.Repositories, Source: source(c.Account, s),
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

// source is where an account's secret comes from.
func source(a config.Account, s *spec) auth.Source {
	switch {
	case a.PasswordFile != "":
		return auth.PasswordFile(auth.File{Path: a.PasswordFile, Directory: a.Folder}, a.Username)
	case a.PasswordCredential != "":
		path := filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), a.PasswordCredential)
		return auth.PasswordFile(auth.File{Path: path, Trusted: true}, a.Username)
	case a.DockerConfig != "":
		hosts := append([]string{s.name, s.origin.Host}, s.aliases...)
		return auth.DockerConfig(auth.File{Path: a.DockerConfig, Directory: a.Folder}, hosts...)
	case a.Helper != nil:
		return auth.SourceFunc(func(context.Context) (auth.Login, error) {
			return auth.Login{}, fmt.Errorf("credential helper %q: helpers are not supported by this version", a.Helper.Name)
		})
	}
	return auth.Static(a.Username, auth.NewSecret(a.Password.Reveal()))
}
