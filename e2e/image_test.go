//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// maxImage is what the image may take, in bytes.
const maxImage = 34 << 20

// imageUser is the user of the image, and of everything it writes.
const imageUser = 64646

// The last stage of the Dockerfile, built by a real dockerd without a network, is
// small, runs without any right on a file system that cannot be written to, says
// that it is healthy, keeps what it pulls in its volume, and stops when it is asked.
func TestImage(t *testing.T) {
	if direct {
		t.Skip("E2E_DIRECT=1: there is no berth")
	}
	w := newWorld(t)
	d := startDocker(t, dockerOld, w)
	d.buildBerth(t)
	var built struct {
		Size   int64
		Config struct{ User string }
	}
	must(t, d.call(t, http.MethodGet, "/images/berth:e2e/json", nil, nil, &built))
	if built.Size >= maxImage || built.Config.User != fmt.Sprintf("%d:%d", imageUser, imageUser) {
		t.Errorf("the image has %d bytes, and user %q", built.Size, built.Config.User)
	}
	t.Logf("the image has %.1f MiB", float64(built.Size)/(1<<20))

	etc, door := tempDir(t, "etc"), freeAddress(t)
	writeFile(t, filepath.Join(etc, "config.yaml"), fmt.Sprintf(
		"listeners: [{address: %q}]\nregistries: {docker.io: {endpoint: \"http://%s\"}}\nadmin: {address: \"\"}\n", door, w.hub.addr))
	must(t, errors.Join(os.Chmod(etc, 0o755), os.Chmod(filepath.Join(etc, "config.yaml"), 0o644)))
	var container struct{ ID string }
	must(t, d.call(t, http.MethodPost, "/containers/create", nil, map[string]any{
		"Image": "berth:e2e",
		"Healthcheck": map[string]any{ // the image's own command, more often
			"Interval": time.Second, "Timeout": 10 * time.Second,
		},
		"HostConfig": map[string]any{
			"NetworkMode": "host", "ReadonlyRootfs": true, "CapDrop": []string{"ALL"}, "SecurityOpt": []string{"no-new-privileges"},
			"Tmpfs": map[string]string{"/run/berth": fmt.Sprintf("mode=0700,uid=%d,gid=%[1]d", imageUser)},
			"Binds": []string{"berth-cache:/cache", etc + ":/etc/berth:ro"},
		},
	}, &container))
	at := "/containers/" + container.ID
	must(t, d.call(t, http.MethodPost, at+"/start", nil, nil, nil))
	t.Cleanup(func() { _ = d.call(t, http.MethodDelete, at+"?force=1&v=1", nil, nil, nil) })
	d.awaitHealth(t, at)

	i := pushIndex(t, w.hub, "library/inside")
	warm(t, door+"/inside:1", login{})
	for range 2 {
		warm(t, door+"/inside:1", login{})
	}
	var volume struct{ Mountpoint string }
	must(t, d.call(t, http.MethodGet, "/volumes/berth-cache", nil, nil, &volume))
	ownedBy(t, filepath.Join(volume.Mountpoint, "blobs"), imageUser)
	if i.digest == "" {
		t.Error("nothing was pulled")
	}

	must(t, d.call(t, http.MethodPost, at+"/stop?t=20", nil, nil, nil))
	var ended struct{ State struct{ ExitCode int } }
	must(t, d.call(t, http.MethodGet, at+"/json", nil, nil, &ended))
	if ended.State.ExitCode != 0 {
		t.Errorf("it ended with %d", ended.State.ExitCode)
	}
}

func ownedBy(t *testing.T, path string, uid uint32) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Uid != uid {
		t.Errorf("%s is not of user %d: %+v", path, uid, info.Sys())
	}
}

// awaitHealth waits until the container is healthy.
func (d docker) awaitHealth(t *testing.T, container string) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(startLimit); ; {
		var c struct {
			State struct {
				Running bool
				Health  struct {
					Status string
					Log    []struct{ Output string }
				}
			}
		}
		must(t, d.call(t, http.MethodGet, container+"/json", nil, nil, &c))
		if c.State.Health.Status == "healthy" {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never healthy: %+v", c.State)
		}
	}
}

// buildBerth builds the image. The first stage of the Dockerfile needs a network;
// what it would make is handed over instead.
func (d docker) buildBerth(t *testing.T) {
	t.Helper()
	path, err := berthBinary()
	must(t, err)
	program, err := os.ReadFile(path)
	must(t, err)
	text, err := os.ReadFile("../Dockerfile")
	must(t, err)
	_, last, ok := strings.Cut(string(text), "\nFROM scratch\n")
	if !ok {
		t.Fatal("the Dockerfile has no stage FROM scratch")
	}
	var b bytes.Buffer
	files := tar.NewWriter(&b)
	add := func(name string, mode int64, content []byte) {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(content))}
		must(t, files.WriteHeader(h))
		_, err := files.Write(content)
		must(t, err)
	}
	add("Dockerfile", 0o644, []byte("FROM scratch AS build\nCOPY files /\n\nFROM scratch\n"+last))
	add("files/out/berth", 0o755, program)
	add("files/out/own/cache/", 0o700, nil)
	add("files/out/own/run/berth/", 0o755, nil)
	add("files/etc/ssl/certs/ca-certificates.crt", 0o644, []byte("as the first stage has it\n"))
	must(t, files.Close())

	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://docker/build?t=berth:e2e&version=1&networkmode=none", &b)
	must(t, err)
	r.Header.Set("Content-Type", "application/x-tar")
	resp, err := d.http.Do(r)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	for stream := json.NewDecoder(resp.Body); ; {
		var line struct{ Error, Stream string }
		if err := stream.Decode(&line); errors.Is(err, io.EOF) {
			return
		} else if err != nil || line.Error != "" {
			t.Fatalf("building: %s, %v", line.Error, err)
		}
	}
}
