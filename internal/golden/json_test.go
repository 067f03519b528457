package golden

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/ocitest"
)

// json are the shapes of what commands answer to programs.
func (c *city) json(t *testing.T) {
	// A download that does not end, so that status has one to show.
	held := c.hub.Inject(ocitest.Match{Repo: "library/held", Kind: ocitest.Blob}, 0, ocitest.Stall(1<<20))
	digest := c.must(http.MethodHead, c.doors[openDoor]+"/v2/held/manifests/1").header.Get("Docker-Content-Digest")
	var doc struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(c.must(http.MethodGet, c.doors[openDoor]+"/v2/held/manifests/"+digest).body, &doc); err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Get(c.doors[openDoor] + "/v2/held/blobs/" + doc.Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(c.dir, "bad.yaml")
	write(t, bad, "listenrs: []\nlisteners: [{address: \"127.0.0.1:0\"}]\nregistries: {odd.example: {type: nonsense}}\n")

	fine := filepath.Join(c.dir, "fine", "berth.yaml")
	write(t, fine, "policy: {deny: [docker.io/library/centos], max_image_size: 1GiB}\n")

	var b strings.Builder
	for _, line := range []string{
		"status", "failures", "list", "list --org acme", "reload", "prewarm nginx:1", "prewarm nginx:none", "purge --org acme",
		"diagnose nginx:1", "diagnose --org acme ghcr.io/acme/app:1", "diagnose --org acme quay.io", "diagnose dead.example/app:1",
		"name nginx", "name --org acme ghcr.io/acme/app:1",
		"setup docker", "setup containerd", "setup podman", "setup nerdctl", "setup buildkit", "setup k3s", "setup crio", "setup prometheus", "setup fleet",
		"setup docker --write --file DIR/daemon.json", "setup podman --write --file DIR/berth.conf",
		"doctor podman --file DIR/berth.conf", "doctor podman --file DIR/none/berth.conf",
		"check BAD", "check GOOD", "check --image nginx OK", "check --image centos OK", "token acme --not-after 2099-12-31", "version", "version --sbom", "remove nginx:1",
	} {
		words := strings.Fields(strings.NewReplacer("DIR", c.dir, "BAD", bad, "OK", fine, "GOOD", c.file).Replace(line))
		switch words[0] {
		case "version":
			if len(words) == 1 {
				words = append(words, "--json")
			}
		case "check":
			words = append(words, "--json")
			words = append(words, asRoot()...)
		default:
			words = append(words, "--json", "--config", c.file)
		}
		code, out, complaint := command(t, nil, words...)
		s := shape{types: map[string]map[string]bool{}}
		if err := s.read(strings.NewReader(out)); err != nil {
			t.Errorf("berth %s: %v in %s (%s)", line, err, out, complaint)
		}
		fmt.Fprintf(&b, "== berth %s: exit code %d\n%s\n", line, code, s)
	}
	held.Remove()
	_ = resp.Body.Close() // it was not read to its end
	show(t, "json.md", "json", b.String())
	hold(t, "json", "What commands answer with --json: each key, and the types of its values.", b.String())
}

// shape is which keys documents have, and of what type.
type shape struct{ types map[string]map[string]bool }

// read adds the documents of r, one after the other.
func (s shape) read(r io.Reader) error {
	d := json.NewDecoder(r)
	for n := 0; ; n++ {
		var doc any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) && n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		s.add("", doc)
	}
}

func (s shape) add(path string, v any) {
	if s.types[path] == nil {
		s.types[path] = map[string]bool{}
	}
	s.types[path][kindOf(v)] = true
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			s.add(path+"."+key, value)
		}
	case []any:
		for _, value := range v {
			s.add(path+"[]", value)
		}
	}
}

// String is a line for each value.
func (s shape) String() string {
	var b bytes.Buffer
	for _, path := range slices.Sorted(maps.Keys(s.types)) {
		if path != "" {
			fmt.Fprintf(&b, "%s: %s\n", path, strings.Join(slices.Sorted(maps.Keys(s.types[path])), " or "))
		}
	}
	return b.String()
}

// kindOf is JSON's name for the type of v.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case float64:
		return "number"
	case string:
		return "string"
	case []any:
		return "list"
	default:
		return "object"
	}
}
