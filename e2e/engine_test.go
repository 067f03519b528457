//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// docker speaks the Engine API, which the docker command does nothing but speak.
type docker struct {
	dir    string
	socket string
	http   *http.Client
}

func newDocker(t *testing.T, dir string) docker {
	t.Helper()
	socket := filepath.Join(dir, "docker.sock")
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return docker{dir, socket, &http.Client{Transport: transport, Timeout: 2 * time.Minute}}
}

func (d docker) ping(ctx context.Context) error {
	resp, err := d.send(ctx, http.MethodGet, "/_ping", nil, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// send sends one request; every answer but a 2xx is an error with its message.
func (d docker) send(ctx context.Context, method, path string, header http.Header, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := d.http.Do(req)
	if err != nil || resp.StatusCode < 300 {
		return resp, err
	}
	defer func() { _ = resp.Body.Close() }()
	var problem struct{ Message string }
	if err := json.NewDecoder(resp.Body).Decode(&problem); err != nil {
		return nil, fmt.Errorf("%s: %w", resp.Status, err)
	}
	return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, problem.Message)
}

// call sends one request and reads its JSON answer into out.
func (d docker) call(t *testing.T, method, path string, header http.Header, body, out any) error {
	t.Helper()
	resp, err := d.send(t.Context(), method, path, header, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// create is docker pull: progress in a stream of JSON, and perhaps an error in
// it, long after the 200.
func (d docker) create(t *testing.T, ref string, as login) error {
	t.Helper()
	host, _, _ := strings.Cut(ref, "/")
	return d.createAt(t, ref, host, as)
}

// pullFor is docker pull --platform.
func (d docker) pullFor(t *testing.T, ref, arch string, as login) error {
	t.Helper()
	host, _, _ := strings.Cut(ref, "/")
	return d.createFor(t, ref, host, "linux/"+arch, as)
}

// createAt is create with a login for a host that need not be the image's.
func (d docker) createAt(t *testing.T, ref, host string, as login) error {
	t.Helper()
	return d.createFor(t, ref, host, "", as)
}

func (d docker) createFor(t *testing.T, ref, host, platform string, as login) error {
	t.Helper()
	header := http.Header{}
	if as.user != "" {
		auth, err := json.Marshal(map[string]string{"username": as.user, "password": as.password, "serveraddress": host})
		if err != nil {
			return err
		}
		header.Set("X-Registry-Auth", base64.URLEncoding.EncodeToString(auth))
	}
	at := strings.LastIndex(ref, ":")
	if digest := strings.Index(ref, "@"); digest >= 0 {
		at = digest
	}
	query := url.Values{"fromImage": {ref[:at]}, "tag": {ref[at+1:]}}
	if platform != "" {
		query.Set("platform", platform)
	}
	resp, err := d.send(t.Context(), http.MethodPost, "/images/create?"+query.Encode(), header, nil)
	if err != nil {
		return err
	}
	return streamed(resp)
}

// pushTag is docker push.
func (d docker) pushTag(t *testing.T, name, tag string) error {
	t.Helper()
	header := http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString([]byte("{}"))}}
	resp, err := d.send(t.Context(), http.MethodPost, "/images/"+name+"/push?tag="+tag, header, nil)
	if err != nil {
		return err
	}
	return streamed(resp)
}

// streamed is the error in a stream of JSON, long after the 200.
func streamed(resp *http.Response) error {
	defer func() { _ = resp.Body.Close() }()
	for stream := json.NewDecoder(resp.Body); ; {
		var line struct{ Error string }
		if err := stream.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
	}
}

// login is docker login.
func (d docker) login(t *testing.T, host string, as login) error {
	t.Helper()
	return d.call(t, http.MethodPost, "/auth", nil,
		map[string]string{"username": as.user, "password": as.password, "serveraddress": host}, nil)
}

// run is docker run --network none: what the container wrote before it ended.
func (d docker) run(t *testing.T, ref string) string {
	t.Helper()
	var container struct{ ID string }
	must(t, d.call(t, http.MethodPost, "/containers/create", nil, map[string]any{
		"Image": ref, "NetworkDisabled": true, "HostConfig": map[string]any{"NetworkMode": "none"},
	}, &container))
	path := "/containers/" + container.ID
	must(t, d.call(t, http.MethodPost, path+"/start", nil, nil, nil))
	var end struct{ StatusCode int }
	must(t, d.call(t, http.MethodPost, path+"/wait", nil, nil, &end))
	if end.StatusCode != 0 {
		t.Errorf("the container ended with %d", end.StatusCode)
	}
	resp, err := d.send(t.Context(), http.MethodGet, path+"/logs?stdout=1&stderr=1", nil, nil)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	out, err := demultiplex(resp.Body)
	must(t, err)
	must(t, d.call(t, http.MethodDelete, path, nil, nil, nil))
	return out
}

// demultiplex takes the frames off the two streams of a container: a type,
// three zeros, and a length of four bytes come before each.
func demultiplex(r io.Reader) (string, error) {
	var out strings.Builder
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			return out.String(), nil
		} else if err != nil {
			return "", err
		}
		if _, err := io.CopyN(&out, r, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return "", err
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// has says whether ref means an image of this digest in the daemon.
func (d docker) has(t *testing.T, ref, digest string) bool {
	t.Helper()
	var image struct{ RepoDigests []string }
	if err := d.call(t, http.MethodGet, "/images/"+ref+"/json", nil, nil, &image); err != nil {
		t.Error(err)
	}
	return strings.Contains(strings.Join(image.RepoDigests, " "), digest)
}

// basicOf is the Authorization of a login.
func basicOf(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
