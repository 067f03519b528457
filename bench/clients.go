package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// client is one of those that users pull with, besides containerd.
type client struct {
	name, title string
	find        func(ctx context.Context, b *bench) error
	start       func(ctx context.Context, b *bench) (puller, error)
}

func clients() []client {
	podman := client{name: "podman", title: "podman (vfs)", find: needsRoot("podman")}
	podman.start = func(_ context.Context, b *bench) (puller, error) { return newPodman(b.dir) }
	graph := dockerd("dockerd-graph", "dockerd of the distribution (graph driver)", []string{"--storage-driver", "overlay2"},
		func() (string, error) { return exec.LookPath("dockerd") })
	store := dockerd("dockerd-store", "dockerd with the containerd store", []string{"--feature", "containerd-snapshotter=true"}, newestDockerd)
	return []client{podman, graph, store}
}

// newestDockerd is the one that .ci/run keeps, or that is in the folder E2E_TOOLS.
func newestDockerd() (string, error) {
	if path, err := exec.LookPath(filepath.Join(os.Getenv("E2E_TOOLS"), "dockerd")); err == nil && os.Getenv("E2E_TOOLS") != "" {
		return path, nil
	}
	found, err := filepath.Glob(filepath.Join(ciCache(), runtime.Version(), "dockerd@*", "dockerd"))
	if err != nil || len(found) == 0 {
		return "", errors.New("there is no newer dockerd: .ci/run builds one, or name its folder in E2E_TOOLS")
	}
	return found[len(found)-1], nil
}

func needsRoot(program string) func(context.Context, *bench) error {
	return func(context.Context, *bench) error {
		if os.Geteuid() != 0 {
			return fmt.Errorf("%s needs root", program)
		}
		_, err := exec.LookPath(program)
		return err
	}
}

// podman has no daemon: what it keeps is in a folder.
type podman struct{ dir string }

func newPodman(below string) (podman, error) {
	dir, err := os.MkdirTemp(below, "podman-")
	if err != nil {
		return podman{}, err
	}
	p := podman{dir}
	return p, errors.Join(
		write(p.file("policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`),
		write(p.file("registries.conf"), ""),
		write(p.file("storage.conf"), fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", p.file("root"), p.file("run"))),
		write(p.file("containers.conf"), "[engine]\nevents_logger = \"none\"\n"))
}

func (p podman) file(name string) string { return filepath.Join(p.dir, name) }

func (p podman) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "podman", args...) //nolint:gosec // G204: constants, and an image of ours
	c.Env = append(os.Environ(), "HOME="+p.dir, "CONTAINERS_CONF="+p.file("containers.conf"),
		"CONTAINERS_REGISTRIES_CONF="+p.file("registries.conf"), "CONTAINERS_STORAGE_CONF="+p.file("storage.conf"))
	var failed bytes.Buffer
	c.Stderr = &failed
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("podman %s: %w: %.500s", args[0], err, failed.Bytes())
	}
	return out, nil
}

func (p podman) fetch(ctx context.Context, image string) error {
	_, err := p.run(ctx, "pull", "--quiet", "--tls-verify=false", "--signature-policy", p.file("policy.json"),
		"--creds", upstreamUser+":"+upstreamPassword, image)
	return err
}

func (p podman) has(ctx context.Context, image string, of image) error {
	out, err := p.run(ctx, "image", "inspect", "--format", "{{len .RootFS.Layers}}", image)
	if err == nil && strings.TrimSpace(string(out)) != fmt.Sprint(len(of.Blobs)-1) {
		err = fmt.Errorf("podman has %s layers of %d", bytes.TrimSpace(out), len(of.Blobs)-1)
	}
	return err
}

func (p podman) remove() error { return os.RemoveAll(p.dir) }

// docker is a running dockerd with folders of its own, on a containerd of its own.
type docker struct {
	*server

	below *containerd
	dir   string
	api   *http.Client
}

func dockerd(name, title string, flags []string, program func() (string, error)) client {
	return client{name: name, title: title,
		find: func(ctx context.Context, b *bench) error {
			if _, err := program(); err != nil {
				return err
			}
			return findEngine(ctx, b)
		},
		start: func(ctx context.Context, b *bench) (puller, error) {
			path, err := program()
			if err != nil {
				return nil, err
			}
			return startDockerd(ctx, b, path, flags)
		}}
}

func startDockerd(ctx context.Context, b *bench, path string, flags []string) (_ *docker, err error) {
	below, err := b.engine.start(ctx, b.dir)
	if err != nil {
		return nil, err
	}
	d := &docker{below: below}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.remove())
		}
	}()
	if d.dir, err = os.MkdirTemp(b.dir, "dockerd-"); err != nil {
		return nil, err
	}
	socket := filepath.Join(d.dir, "sock")
	d.api = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	config := filepath.Join(d.dir, "daemon.json")
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := exec.CommandContext(ctx, path, append([]string{ //nolint:gosec // G204: what was found
		"--config-file", config, "--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"),
		"--host", "unix://" + socket, "--pidfile", filepath.Join(d.dir, "pid"), "--containerd", below.socket(),
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
	}, flags...)...)
	c.Dir, c.Stdout, c.Stderr = d.dir, log, log
	if err := write(config, fmt.Sprintf(`{"deprecated-key-path": %q}`, filepath.Join(d.dir, "key.json"))); err != nil {
		return nil, err
	}
	if d.server, err = start(c); err != nil {
		return nil, err
	}
	if err := d.ready(ctx); err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w: %s", err, text[max(0, len(text)-1000):])
	}
	return d, nil
}

func (d *docker) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := d.ask(ctx, http.MethodGet, "/_ping", nil)
		if err == nil {
			return nil
		}
		select {
		case <-d.done:
			return errors.New("dockerd ended at once")
		case <-ctx.Done():
			return fmt.Errorf("dockerd does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ask asks the Engine API, and gives each object of the answer to take.
func (d *docker) ask(ctx context.Context, method, path string, take func(*json.Decoder) error) error {
	q, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	login, err := json.Marshal(map[string]string{"username": upstreamUser, "password": upstreamPassword})
	if err != nil {
		return err
	}
	q.Header.Set("X-Registry-Auth", base64.URLEncoding.EncodeToString(login))
	a, err := d.api.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(a.Body, 500))
		return fmt.Errorf("%s: %s", a.Status, text)
	}
	if take == nil {
		return nil
	}
	for j := json.NewDecoder(a.Body); err == nil; {
		err = take(j)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (d *docker) fetch(ctx context.Context, image string) error {
	at := strings.LastIndexByte(image, ':')
	path := "/images/create?fromImage=" + url.QueryEscape(image[:at]) + "&tag=" + image[at+1:]
	return d.ask(ctx, http.MethodPost, path, func(j *json.Decoder) error {
		var line struct{ Error string }
		if err := j.Decode(&line); err != nil || line.Error == "" {
			return err
		}
		return errors.New(line.Error)
	})
}

func (d *docker) has(ctx context.Context, image string, of image) error {
	return d.ask(ctx, http.MethodGet, "/images/"+image+"/json", func(j *json.Decoder) error {
		var i struct{ RootFS struct{ Layers []string } }
		if err := j.Decode(&i); err != nil || len(i.RootFS.Layers) == len(of.Blobs)-1 {
			return err
		}
		return fmt.Errorf("dockerd has %d layers of %d", len(i.RootFS.Layers), len(of.Blobs)-1)
	})
}

// remove ends it and takes away what it has. Dockerd mounts its own folder.
func (d *docker) remove() error {
	if d.server != nil {
		d.stop()
	}
	var err error
	if d.dir != "" {
		_ = unix.Unmount(filepath.Join(d.dir, "data"), unix.MNT_DETACH) // mostly there is none left
		err = os.RemoveAll(d.dir)
	}
	return errors.Join(err, d.below.remove())
}
