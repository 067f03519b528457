//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// world is n's registries, for clients that are started with one.
func (n *named) world() *world {
	return &world{acme: n.ghcr, globex: n.globex, hub: n.hub, berth: &berth{tokens: n.address, open: n.address}}
}

// dockerNamed is a dockerd of today that is led to n.
func (n *named) dockerNamed(t *testing.T, setup ...string) docker {
	t.Helper()
	n.setUp(t, append([]string{"docker", "--org", "acme", "--write", "--file", filepath.Join(n.etc, "daemon.json")}, setup...)...)
	d, _ := startDockerWith(t, dockerNew, n.world(), etcDocker(n.etc))
	return d
}

// own puts an image with a file /owner into a registry.
func own(t *testing.T, at *upstream, repo, owner string) image {
	t.Helper()
	return push(t, at, repo, buildImage(t, runtime.GOARCH, []string{"/owner"}, layerOf(t, "owner", []byte(owner))))
}

// skopeo with names as they are, as two organisations; a push by them goes to the registry.
func TestNames_Skopeo(t *testing.T) {
	n := newNamed(t)
	path := skopeo.find(t)
	for organisation, i := range map[string]image{"acme": pushImage(t, n.ghcr, "acme/app", 64<<10), "globex": pushImage(t, n.globex, "globex/app", 64<<10)} {
		dir := tempDir(t, "skopeo")
		file := filepath.Join(dir, "berth.conf")
		client := map[string]string{"acme": "podman", "globex": "crio"}[organisation] // of one parser, containers/image
		n.setUp(t, client, "--org", organisation, "--write", "--file", file)
		dockerConfig(t, dir, n.address, login{organisation, callerToken(organisation)})
		skopeo := func(conf string, args ...string) (string, error) {
			return run(t, dir, []string{"REGISTRY_AUTH_FILE=" + filepath.Join(dir, "config.json")}, path, append([]string{"--insecure-policy", "--registries-conf", conf}, args...)...)
		}
		layout := "dir:" + filepath.Join(dir, "image")
		for ref, digest := range map[string]string{
			ownName(nil, i): i.digest, "docker.io/library/nginx:1": pushIndex(t, n.hub, "library/nginx").digest, "reg.example:5443/x:1": pushImage(t, n.open, "x", 4<<10).digest,
		} {
			_, err := skopeo(file, "copy", "docker://"+ref, layout)
			must(t, err)
			manifest, err := skopeo(file, "inspect", "--raw", "docker://"+ref)
			if sum := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(manifest))); err != nil || sum != digest {
				t.Errorf("%s is %s, %v, want %s", ref, sum, err, digest)
			}
		}
		other := map[string]image{"globex": pushImage(t, n.ghcr, "acme/secret", 4<<10), "acme": pushImage(t, n.globex, "globex/secret", 4<<10)}[organisation]
		if _, err := skopeo(file, "copy", "docker://"+ownName(nil, other), layout+"-other"); err == nil {
			t.Errorf("%s has %s", organisation, ownName(nil, other))
		}
		to := "reg.example:5443/pushed-" + organisation
		_, err := run(t, dir, n.leadsTo(n.open), path, "--insecure-policy", "--registries-conf", file, "copy", "--dest-tls-verify=false", layout, "docker://"+to+":1")
		must(t, err)
		if len(n.open.requests("/v2/pushed-"+organisation+"/manifests/1")) == 0 {
			t.Error("the registry has not seen the push")
		}
		n.setUp(t, client, "--org", organisation, "--undo", "--file", file)
		if _, err := os.Stat(file); err == nil {
			t.Error("undoing leaves the file")
		}
	}
	dir := tempDir(t, "skopeo")
	file := filepath.Join(dir, "berth.conf")
	n.setUp(t, "podman", "--org", "acme", "--write", "--file", file)
	dockerConfig(t, dir, n.address, login{"acme", callerToken("acme")})
	n.fails(t, pulls(func(ref string) error {
		_, err := run(t, dir, []string{"REGISTRY_AUTH_FILE=" + filepath.Join(dir, "config.json")}, path, "--insecure-policy", "--registries-conf", file, "copy", "docker://"+ref, "dir:"+filepath.Join(dir, "image"))
		return err
	}), ownName(nil, pushImage(t, n.ghcr, "acme/down", 4<<10)))
	if strings.Contains(n.log(t), "pushed") {
		t.Error("a push came to berth")
	}
}

// pulls is a puller for what only has to fail.
type pulls func(ref string) error

func (pulls) explains() bool { return false }

func (p pulls) pull(_ *testing.T, ref string, _ login) ([]string, error) { return nil, p(ref) }

// leadsTo is an environment in which a name that nobody knows, as that of a registry, is
// asked at u.
func (*named) leadsTo(u *upstream) []string {
	return []string{"HTTP_PROXY=http://" + u.addr, "HTTPS_PROXY=http://" + u.addr}
}

// buildkitd with names as they are: a builder for each of two organisations.
func TestNames_Buildkit(t *testing.T) {
	n := newNamed(t)
	images := map[string]image{"acme": pushImage(t, n.ghcr, "acme/app", 64<<10), "globex": pushImage(t, n.globex, "globex/app", 64<<10)}
	for organisation, other := range map[string]string{"acme": "globex", "globex": "acme"} {
		file := filepath.Join(tempDir(t, "bkconf"), "buildkitd.toml")
		n.setUp(t, "buildkit", "--org", organisation, "--write", "--file", file)
		text, err := os.ReadFile(file)
		must(t, err)
		b := startBuildkit(t, strings.Replace(string(text), "[registry.\"reg.example:5443\"]\n", "[registry.\"reg.example:5443\"]\nhttp = true\n", 1), n.leadsTo(n.open)...)
		dockerConfig(t, filepath.Join(b.dir, ".docker"), n.address, login{organisation, callerToken(organisation)})
		mustPull(t, b, ownName(nil, images[organisation]), login{}, images[organisation].digest)
		mustPull(t, b, "docker.io/library/nginx:1", login{}, pushIndex(t, n.hub, "library/nginx").digest)
		mustPull(t, b, "reg.example:5443/x:1", login{}, pushImage(t, n.open, "x", 4<<10).digest)
		mustRefuse(t, b, ownName(nil, images[other]), login{}, anything)
		to := "reg.example:5443/pushed-" + organisation
		must(t, b.build(t, "reg.example:5443/x:1", "type=image,push=true,name="+to+":1"))
		if len(n.open.requests("/v2/pushed-"+organisation+"/manifests/1")) == 0 {
			t.Error("the registry has not seen the push")
		}
		n.setUp(t, "buildkit", "--org", organisation, "--undo", "--file", file)
		if left, err := os.ReadFile(file); err == nil && bytes.Contains(left, []byte(n.address)) {
			t.Errorf("undoing leaves %s", left)
		}
	}
	n.stop(t)
	if strings.Contains(n.log(t), "pushed") {
		t.Error("a push came to berth")
	}
}

// docker build of Docker itself, as two organisations at one daemon: BuildKit asks whoever
// builds for his login at berth's address.
func TestNames_DockerBuild(t *testing.T) {
	n := newNamed(t)
	d := n.dockerNamed(t)
	images := map[string]image{"acme": own(t, n.ghcr, "acme/base", "acme"), "globex": own(t, n.globex, "globex/base", "globex")}
	for organisation, other := range map[string]string{"acme": "globex", "globex": "acme"} {
		s := d.as(t)
		s.login(t, n.address, login{organisation, callerToken(organisation)})
		if owner, err := s.build(t, ownName(nil, images[organisation]), "--pull", "--no-cache"); err != nil || owner != organisation {
			t.Errorf("%s builds on %q, %v", organisation, owner, err)
		}
		secret := own(t, map[string]*upstream{"acme": n.ghcr, "globex": n.globex}[other], other+"/secret", other)
		if _, err := s.build(t, ownName(nil, secret), "--pull", "--no-cache"); err == nil {
			t.Errorf("%s builds on %s", organisation, ownName(nil, secret))
		}
	}
	s := d.as(t)
	s.login(t, n.address, login{"acme", callerToken("acme")})
	n.fails(t, pulls(func(ref string) error {
		_, err := s.build(t, ref, "--pull", "--no-cache")
		return err
	}), ownName(nil, own(t, n.ghcr, "acme/down", "acme")))
}

// Compose with twenty services of five images with names as they are, on a node of one
// organisation: each image costs its registry one GET of its manifest.
func TestNames_Compose(t *testing.T) {
	n := newNamed(t)
	d := n.dockerNamed(t, "--token-file", n.secret)
	var images []image
	for i := range 5 {
		images = append(images, own(t, n.ghcr, fmt.Sprint("acme/app", i), fmt.Sprint(i)))
	}
	var text strings.Builder
	text.WriteString("services:\n")
	for i := range 20 {
		fmt.Fprintf(&text, "  s%d: {image: %q, pull_policy: always, container_name: s%d, network_mode: none, command: [/owner]}\n", i, ownName(nil, images[i%5]), i)
	}
	s := d.as(t)
	file := writeFile(t, filepath.Join(s.home, "compose.yaml"), text.String())
	_, err := run(t, s.home, []string{"DOCKER_HOST=unix://" + s.socket, "DOCKER_CONFIG=" + s.home}, composeProgram.find(t), "--project-name", "twenty", "--file", file, "--progress", "plain", "create")
	must(t, err)
	for i := range 20 {
		if owner := d.ownerIn(t, fmt.Sprint("s", i)); owner != fmt.Sprint(i%5) {
			t.Errorf("s%d runs the image of %q", i, owner)
		}
	}
	for _, i := range images {
		if !d.has(t, ownName(nil, i), i.digest) {
			t.Errorf("%s is not %s", ownName(nil, i), i.digest)
		}
		gets := 0
		for _, r := range n.ghcr.requests("/v2/" + i.repo + "/manifests/") {
			if r.method == http.MethodGet {
				gets++
			}
		}
		if gets != 1 {
			t.Errorf("%s cost %d GETs of its manifest", i.repo, gets)
		}
	}
}

// A Swarm of one node: a service is made and updated with the login that it carries, for
// berth's address, and images keep their names.
func TestNames_Swarm(t *testing.T) {
	n := newNamed(t)
	d := n.dockerNamed(t)
	must(t, d.call(t, http.MethodPost, "/swarm/init", nil, map[string]any{"ListenAddr": freeAddress(t), "AdvertiseAddr": "127.0.0.1"}, nil))
	first, second := own(t, n.ghcr, "acme/app", "first"), own(t, n.ghcr, "acme/next", "second")
	as := http.Header{"X-Registry-Auth": {registryAuth(login{"acme", callerToken("acme")}, n.address)}}
	spec := func(i image) map[string]any {
		return map[string]any{"Name": "web", "TaskTemplate": map[string]any{
			"ContainerSpec": map[string]any{"Image": atDigest(ownName(nil, i), i.digest)},
			"RestartPolicy": map[string]any{"Condition": "none"},
			"Networks":      []any{map[string]any{"Target": "host"}},
		}}
	}
	var service struct {
		ID      string
		Version struct{ Index int }
	}
	must(t, d.call(t, http.MethodPost, "/services/create", as.Clone(), spec(first), &service))
	if owner := d.taskOf(t, service.ID, first.digest); owner != "first" {
		t.Errorf("the service is %q's", owner)
	}
	must(t, d.call(t, http.MethodGet, "/services/"+service.ID, nil, nil, &service))
	must(t, d.call(t, http.MethodPost, fmt.Sprintf("/services/%s/update?version=%d", service.ID, service.Version.Index), as.Clone(), spec(second), nil))
	if owner := d.taskOf(t, service.ID, second.digest); owner != "second" {
		t.Errorf("the updated service is %q's", owner)
	}
	theirs := own(t, n.globex, "globex/app", "globex")
	other := spec(theirs)
	other["Name"] = "thief"
	must(t, d.call(t, http.MethodPost, "/services/create", as.Clone(), other, &service))
	if owner := d.taskOf(t, service.ID, theirs.digest); owner != "" {
		t.Errorf("acme's service is %q's", owner)
	}
}

// taskOf waits for the container of a service's task of this image, and says whose it is;
// nobody's if the task is rejected.
func (d docker) taskOf(t *testing.T, service, digest string) string {
	t.Helper()
	filter, err := json.Marshal(map[string][]string{"service": {service}})
	must(t, err)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(startLimit); ; {
		var tasks []struct {
			Spec   struct{ ContainerSpec struct{ Image string } }
			Status struct {
				State, Err      string
				ContainerStatus struct{ ContainerID string }
			}
		}
		must(t, d.call(t, http.MethodGet, "/tasks?filters="+url.QueryEscape(string(filter)), nil, nil, &tasks))
		for _, task := range tasks {
			switch {
			case !strings.Contains(task.Spec.ContainerSpec.Image, digest):
			case task.Status.State == "rejected":
				return ""
			case task.Status.ContainerStatus.ContainerID != "":
				return d.ownerIn(t, task.Status.ContainerStatus.ContainerID)
			}
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("no task: %+v", tasks)
		}
	}
}

// What Nomad's docker driver sends for a job with server_address: a pull with the login in
// its header, a look at the image, and a container of its ID.
func TestNames_Nomad(t *testing.T) {
	n := newNamed(t)
	d := n.dockerNamed(t)
	for organisation, at := range map[string]*upstream{"acme": n.ghcr, "globex": n.globex} {
		i := own(t, at, organisation+"/job", organisation)
		must(t, d.createAt(t, ownName(nil, i), n.address, login{organisation + "+ci", callerToken(organisation)}))
		var pulled struct{ ID string }
		must(t, d.call(t, http.MethodGet, "/images/"+ownName(nil, i)+"/json", nil, nil, &pulled))
		id, err := d.container(t, pulled.ID)
		must(t, err)
		if owner := d.ownerIn(t, id); owner != organisation {
			t.Errorf("%s runs the image of %q", organisation, owner)
		}
		other := map[string]string{"acme": "globex", "globex": "acme"}[organisation]
		private := own(t, at, organisation+"/private", organisation)
		if err := d.createAt(t, ownName(nil, private), n.address, login{other + "+ci", callerToken(other)}); err == nil {
			t.Errorf("%s has the image of %s", other, organisation)
		}
	}
}
