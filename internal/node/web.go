package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"

	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v4"

	"berth/auth/credential"
)

// maxWebConfig bounds a web configuration file, in bytes.
const maxWebConfig = 1 << 20

// webConfig is a web configuration file of the Prometheus exporter toolkit, as far
// as berth itself looks at it.
type webConfig struct {
	TLS struct {
		Cert       string `yaml:"cert"`
		CertFile   string `yaml:"cert_file"`
		KeyFile    string `yaml:"key_file"`
		ClientAuth string `yaml:"client_auth_type"`
	} `yaml:"tls_server_config"`
	Users map[string]any `yaml:"basic_auth_users"`
}

func readWebConfig(file string) (*webConfig, error) {
	text, err := readBounded(file, maxWebConfig)
	if err != nil {
		return nil, err
	}
	var c webConfig
	if err := yaml.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("%s is no YAML", file) // what the parser says may repeat a hash
	}
	return &c, nil
}

// protects says whether the file keeps strangers out. The toolkit takes one that
// asks nobody for anything, an empty one for example, as such.
func (c *webConfig) protects(token bool) error {
	switch {
	case c.TLS.Cert == "" && c.TLS.CertFile == "":
		return errors.New("it has no certificate: give cert_file and key_file under tls_server_config")
	case !token && len(c.Users) == 0 && c.TLS.ClientAuth != "RequireAndVerifyClientCert":
		return errors.New("it asks nobody who he is: give basic_auth_users, or client_auth_type: RequireAndVerifyClientCert, or set token_file")
	}
	return nil
}

// checkWeb says what is wrong with a web configuration file for an address that
// strangers can reach, or cannot, and that asks for a token, or does not.
func checkWeb(file string, strangers, token bool) error {
	c, err := readWebConfig(file) // first, since this one does not wait for a pipe
	if err == nil {
		err = web.Validate(file)
	}
	if err == nil {
		err = c.check(file, strangers, token)
	}
	if err != nil {
		return fmt.Errorf("web_config_file %s: %w", file, err)
	}
	return nil
}

func (c *webConfig) check(file string, strangers, token bool) error {
	if strangers {
		if err := c.protects(token); err != nil {
			return err
		}
	}
	if key := c.keyFile(file); key != "" {
		return secretFile(key).Check()
	}
	return nil
}

// keyFile is the private key's path; empty if there is none.
func (c *webConfig) keyFile(file string) string {
	if c.TLS.KeyFile == "" || filepath.IsAbs(c.TLS.KeyFile) {
		return c.TLS.KeyFile
	}
	return filepath.Join(filepath.Dir(file), c.TLS.KeyFile)
}

// webServer serves by a web configuration file, which is read again whenever
// somebody comes.
type webServer struct {
	file  string
	token bool // there is one too
	log   *slog.Logger
}

func (w webServer) serve(s *http.Server, l net.Listener) error {
	at, tcp := addressOf(l)
	strangers := tcp && !at.Addr().IsLoopback()
	if err := checkWeb(w.file, strangers, w.token); err != nil {
		return err
	}
	if strangers {
		s.Handler = w.protected(s.Handler)
	}
	flags := web.FlagConfig{WebConfigFile: &w.file}
	return web.Serve(l, s, &flags, slog.New(slog.DiscardHandler))
}

// protected answers nobody any more once the file has stopped to ask who he is.
func (w webServer) protected(next http.Handler) http.Handler {
	complain := sync.OnceFunc(func() {
		w.log.Error("the operators' address answers nobody: others can reach it, and the web configuration file no longer keeps them out", "file", w.file)
	})
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, err := readWebConfig(w.file)
		if err != nil || c.protects(w.token) != nil {
			complain()
			http.Error(rw, "web_config_file keeps nobody out", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// secretFile is a file that has to be kept like a password, wherever it lies.
func secretFile(path string) credential.File {
	return credential.File{Path: path, Trusted: fromSystemd(path)}
}
