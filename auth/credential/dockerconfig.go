package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"berth/oci"

	"github.com/google/go-containerregistry/pkg/authn"

	"berth/internal/secret"
)

// maxDockerConfig is the largest docker config file, in bytes.
const maxDockerConfig = 1 << 20

// DockerConfig is a Source for a file as docker login and kubectl write it
// (config.json, .dockerconfigjson). hosts are the names of the registry, best
// first; a key of the file matches by its host, so that
// https://index.docker.io/v1/ is a name of Docker Hub. Where the file leaves a
// host to a helper (credHelpers, credsStore), that is asked if it is one of
// helpers. Identity tokens and registry tokens are refused with a message that
// says so.
func DockerConfig(f File, helpers []string, hosts ...string) Source {
	return &dockerConfigSource{
		helpers: helpers,
		file: fileSource{file: f, limit: maxDockerConfig, parse: func(content []byte) (Login, error) {
			return parseDockerConfig(content, hosts)
		}},
	}
}

type dockerConfigSource struct {
	helpers []string
	file    fileSource

	mu     sync.Mutex
	asked  leftToHelper // whom helper asks
	helper Source
}

// Login reads the file, and asks the helper that it names.
func (s *dockerConfigSource) Login(ctx context.Context) (Login, error) {
	login, err := s.file.Login(ctx)
	left, ok := errors.AsType[leftToHelper](err)
	if !ok || !slices.Contains(s.helpers, left.name) {
		return login, err
	}
	return s.ask(left).Login(ctx)
}

// Renew is the helper's.
func (s *dockerConfigSource) Renew(password secret.Text) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.helper.(renewer)
	return ok && r.Renew(password)
}

func (s *dockerConfigSource) ask(left leftToHelper) Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.helper == nil || s.asked != left {
		s.asked, s.helper = left, HelperSource(Helper{Name: left.name, Server: left.server, Hung: s.file.file.Hung})
	}
	return s.helper
}

// leftToHelper is why a file has no secret for a host.
type leftToHelper struct{ name, server string }

// Error says what to do if the helper may not be asked. It repeats nothing of
// the file.
func (leftToHelper) Error() string {
	return "it leaves the registry to a credential helper or credential store that is not allowed: list that under helpers:, or use a user name and a read token"
}

// dockerConfig is the part of the file that is read. Entries stay raw: a
// broken one for another registry is no concern of this one.
type dockerConfig struct {
	Auths       map[string]json.RawMessage `json:"auths"`
	CredHelpers map[string]string          `json:"credHelpers"`
	CredsStore  string                     `json:"credsStore"`
}

// parseDockerConfig never wraps a decoder's error: those may quote the input.
func parseDockerConfig(content []byte, hosts []string) (Login, error) {
	var config dockerConfig
	if json.Unmarshal(content, &config) != nil {
		return Login{}, errors.New("it is not a docker configuration in JSON")
	}
	for _, host := range dockerHosts(hosts) {
		// in order, so that of two spellings of one host always the same wins
		for _, key := range slices.Sorted(maps.Keys(config.Auths)) {
			if raw := config.Auths[key]; keyHost(key) == host && !emptyObject(raw) {
				return parseAuth(raw, host)
			}
		}
	}
	return Login{}, noAuth(config, hosts)
}

func parseAuth(raw json.RawMessage, host string) (Login, error) {
	var a authn.AuthConfig
	if json.Unmarshal(raw, &a) != nil {
		return Login{}, fmt.Errorf("its auth for %s is not base64 of user:password", host)
	}
	switch {
	case a.IdentityToken != "":
		return Login{}, fmt.Errorf("it has an identity token for %s, which only works interactively: use a user name and a read token", host)
	case a.RegistryToken != "":
		return Login{}, fmt.Errorf("it has a registry token for %s, which soon expires: use a user name and a read token", host)
	}
	// docker pads with NUL, and cuts it when it reads
	password := strings.TrimRight(a.Password, "\x00")
	if password == "" {
		return Login{}, fmt.Errorf("its password for %s is empty", host)
	}
	return Login{Username: secret.New(a.Username), Password: secret.New(password)}, nil
}

// noAuth says why there is nothing. docker login leaves an empty entry behind
// when a helper keeps the secret.
func noAuth(config dockerConfig, hosts []string) error {
	name := "this registry"
	if len(hosts) > 0 {
		name = hosts[0]
	}
	for _, host := range dockerHosts(hosts) {
		for _, key := range slices.Sorted(maps.Keys(config.CredHelpers)) {
			if keyHost(key) == host {
				return leftToHelper{config.CredHelpers[key], key}
			}
		}
	}
	if config.CredsStore != "" && len(hosts) > 0 {
		return leftToHelper{config.CredsStore, storeKey(hosts[0])}
	}
	return fmt.Errorf("it has no login for %s", name)
}

// storeKey is what docker login calls a registry when it gives a secret to a
// store.
func storeKey(host string) string {
	if host == oci.DockerHub {
		return "https://index.docker.io/v1/"
	}
	return host
}

func emptyObject(raw json.RawMessage) bool {
	s := strings.Join(strings.Fields(string(raw)), "")
	return s == "{}" || s == "null"
}

// dockerHosts adds the names that docker itself uses for Docker Hub.
func dockerHosts(hosts []string) []string {
	all := make([]string, 0, len(hosts)+2)
	for _, h := range hosts {
		h = strings.ToLower(h)
		all = append(all, h)
		if h == oci.DockerHub {
			all = append(all, oci.DockerHubNames()[1:]...)
		}
	}
	return all
}

// keyHost is the host and port in a key of "auths", which may be a bare host, a
// host with a path or a URL.
func keyHost(key string) string {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	host, _, _ := strings.Cut(key, "/")
	return strings.ToLower(host)
}
