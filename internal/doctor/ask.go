package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/setup"
)

// askTime bounds each question.
const askTime = 5 * time.Second

// ourHost looks at the host that is this node: whether it answers there, over a
// certificate that the client trusts, and to whom.
func (l *look) ourHost(path string, r setup.Registry, h host, at setup.Listener, way *Way) {
	authorization := h.authorization()
	way.Who = who(at, authorization)
	if authorization != "" {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
			l.find(Finding{Problem: ExposedToken, Registries: []string{r.Name}, File: path, Message: "others than root can read the token in it", Cure: "chmod 0600 it", Run: "chmod 0600 " + quote(path)})
		}
	}
	if at.NameNeedsOrganisation {
		l.find(Finding{Problem: NotListening, Registries: []string{r.Name}, File: path, Message: "names at " + at.Address + " begin with an organisation, which this client does not add", Cure: "add a listener without organisation_in_name: required"})
		return
	}
	cas := texts(h.CA)
	for i, file := range cas {
		if !filepath.IsAbs(file) {
			cas[i] = filepath.Join(filepath.Dir(path), file)
		}
	}
	l.answers(path, r, door{at: h.url, root: h.root(), authorization: authorization, cas: cas, skipVerify: h.SkipVerify}, at)
}

// door is how a client comes to a listener.
type door struct {
	// at is what its configuration says, root below which it asks.
	at, root      string
	authorization string
	cas           []string
	skipVerify    bool
}

// answers asks the listener as the client would.
func (l *look) answers(path string, r setup.Registry, d door, listener setup.Listener) {
	at, authorization := d.at, d.authorization
	status, err := l.ask(d, r.Name)
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	f := Finding{Registries: []string{r.Name}, File: path}
	switch {
	case errors.As(err, &unknown) || errors.As(err, &name):
		f.Problem, f.Message = TLS, at+" serves a certificate that the client does not trust: "+firstLine(err)
		f.Cure = fmt.Sprintf("name the certificate of its authority below [host.%q]: ca = \"/etc/berth/ca.pem\"", at)
	case err != nil:
		f.Problem, f.Message, f.Cure = NotListening, "berth does not answer at "+at+": "+firstLine(err), "start it: systemctl start berth"
	case status == http.StatusUnauthorized && authorization == "":
		if !listener.Token || l.o.Organisation == "" {
			return // whoever pulls may have a login
		}
		f.Problem, f.Message = MissingToken, "whoever pulls has to log in at "+listener.Address+", and Docker sends a login for the registry nowhere else: pulls without one are refused"
		f.Cure = "give the node a token of its organisation that is for: header (berth token ORGANISATION), or the clients a login of their own (X-Registry-Auth, X-Meta-Berth)"
		f.Run = l.o.Command + " setup " + l.client.Name + " --write --organisation " + l.o.Organisation + " --token-file FILE"
		if l.o.File != "" {
			f.Run += " --file " + quote(l.o.File)
		}
	case status == http.StatusUnauthorized || status == http.StatusForbidden && authorization != "":
		f.Problem, f.Message = MissingToken, "berth does not take the token in it"
		f.Cure = "make another, list it with for: header, and write it"
		f.Run = l.o.Command + " setup " + l.client.Name + " --write --organisation ORGANISATION --token-file FILE"
		if l.o.File != "" {
			f.Run += " --file " + quote(l.o.File)
		}
	case status == http.StatusNotFound:
		f.Problem, f.Message = WrongMirror, "berth answers 404 to what the client asks for: the path in "+at+" leads nowhere"
		f.Cure, f.Run = "put that file aside and write berth's", l.anew(path)
	default:
		return
	}
	l.find(f)
}

// ask is GET /v2/ for a registry.
func (l *look) ask(d door, registry string) (status int, err error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, file := range d.cas {
		if pem, err := readFile(file); err == nil {
			pool.AppendCertsFromPEM(pem)
		}
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, InsecureSkipVerify: d.skipVerify}, DisableKeepAlives: true} //nolint:gosec // G402: as the client does, which is told skip_verify
	client := &http.Client{Transport: transport, Timeout: askTime}
	req, err := http.NewRequestWithContext(l.ctx, http.MethodGet, d.root+"/?ns="+url.QueryEscape(registry), http.NoBody)
	if err != nil {
		return 0, err
	}
	if d.authorization != "" {
		req.Header.Set("Authorization", d.authorization)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// whoLogsIn decides as whom a pull comes where nothing in the client's files does.
const whoLogsIn = "whoever logs in"

// who is as whom pulls come to a listener.
func who(at setup.Listener, authorization string) string {
	if encoded, ok := strings.CutPrefix(authorization, "Basic "); ok {
		if text, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			user, _, _ := strings.Cut(string(text), ":")
			return "organisation " + user
		}
	}
	switch {
	case at.Token:
		return whoLogsIn
	case at.Organisation != "":
		return "organisation " + at.Organisation
	}
	return "nobody: public images only"
}

// engine is what dockerd says of itself.
type engine struct {
	ServerVersion  string
	Driver         string
	DriverStatus   [][2]string
	RegistryConfig struct{ Mirrors []string }
}

// containerdStore says that images lie in containerd's store, which reads hosts.toml.
func (e engine) containerdStore() bool {
	for _, s := range e.DriverStatus {
		if s[0] == "driver-type" && strings.HasPrefix(s[1], "io.containerd.snapshotter") {
			return true
		}
	}
	return false
}

// readsHosts says that this dockerd pulls by hosts.toml: Docker 28 and later with the
// containerd store. What calls itself otherwise is new.
func (e engine) readsHosts() bool {
	var major int
	if _, err := fmt.Sscanf(e.ServerVersion, "%d.", &major); err == nil && major < 28 && !strings.HasPrefix(e.ServerVersion, "2.") {
		return false
	}
	return e.containerdStore()
}

// askDocker is what dockerd says of itself.
func askDocker(ctx context.Context, socket string) (e engine, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	resp, err := askEngine(ctx, socket, http.MethodGet, "/info")
	if err != nil {
		return e, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return e, fmt.Errorf("dockerd answers %s", resp.Status)
	}
	return e, json.NewDecoder(io.LimitReader(resp.Body, maxFile)).Decode(&e)
}

// askEngine asks dockerd at its socket.
func askEngine(ctx context.Context, socket, method, path string) (*http.Response, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", cmp.Or(socket, "/var/run/docker.sock"))
	}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}
