package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// maxDockerConfig is the largest docker config file, in bytes.
const maxDockerConfig = 1 << 20

// DockerConfig is a Source for a file as docker login and kubectl write it
// (config.json, .dockerconfigjson). hosts are the names of the registry, best
// first; a key of the file matches by its host, so that
// https://index.docker.io/v1/ is a name of Docker Hub. Identity tokens,
// registry tokens and helpers are refused with a message that says so.
func DockerConfig(f File, hosts ...string) Source {
	return &fileSource{file: f, limit: maxDockerConfig, parse: func(content []byte) (Login, error) {
		return parseDockerConfig(content, hosts)
	}}
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
	return Login{Username: NewSecret(a.Username), Password: NewSecret(password)}, nil
}

// noAuth says why there is nothing. docker login leaves an empty entry behind
// when a helper keeps the secret.
func noAuth(config dockerConfig, hosts []string) error {
	name := "this registry"
	if len(hosts) > 0 {
		name = hosts[0]
	}
	for key := range config.CredHelpers {
		for _, host := range dockerHosts(hosts) {
			if keyHost(key) == host {
				return fmt.Errorf("it leaves %s to a credential helper, which is not run from there: name a helper, or use a user name and a read token", name)
			}
		}
	}
	if config.CredsStore != "" {
		return fmt.Errorf("it keeps secrets in a credential store, which is not asked: use a user name and a read token for %s", name)
	}
	return fmt.Errorf("it has no login for %s", name)
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
		if h == "docker.io" {
			all = append(all, "index.docker.io", "registry-1.docker.io")
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
