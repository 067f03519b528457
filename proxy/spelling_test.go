package proxy

import (
	"testing"

	"berth/internal/registry"
)

// A registry that is configured is not unlisted under another spelling: a rule about
// its name would not hold there, nor what it says of rights.
func TestRouter_UnlistedSpellingsOfWhatIsConfigured(t *testing.T) {
	var specs []*registry.Spec
	for _, b := range registry.Builtins() {
		s, err := registry.New(b.Name, "", registry.Place{}, registry.Trust{})
		if err != nil {
			t.Fatal(err)
		}
		specs = append(specs, s)
	}
	lab, err := registry.New("lab", "", registry.Place{Endpoint: "https://reg.lab.example"}, registry.Trust{Access: registry.AccessObject})
	if err != nil {
		t.Fatal(err)
	}
	router, err := NewRouter(append(specs, lab))
	if err != nil {
		t.Fatal(err)
	}
	router.Unlisted = true
	for spelling, name := range map[string]string{
		"ghcr.io:443": "ghcr.io", "ghcr.io_443": "ghcr.io", "quay.io:443": "quay.io", "docker.io:443": "docker.io", "registry-1.docker.io:443": "docker.io",
		"reg.lab.example": "lab", "reg.lab.example:443": "lab", "reg.lab.example_443": "lab",
		"other.example:443": "other.example", "other.example:5443": "other.example:5443",
	} {
		if s, ok := router.Lookup("acme", spelling); !ok || s.Name != name {
			t.Errorf("%s is %+v, %v, want %s", spelling, s, ok, name)
		}
	}
	for _, spelling := range []string{"ghcr.io:0443", "ghcr.io_00443"} {
		if s, ok := router.Lookup("acme", spelling); ok {
			t.Errorf("%s is %+v", spelling, s)
		}
	}
}
