package node

import "testing"

// Images of a place that no registry is reached at any more are called by that
// place, as people write it.
func TestImages_OfAFormerEndpoint(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]string{
		"reg.example.com-0123": "reg.example.com", "reg-2.example.com_5443-0123": "reg-2.example.com:5443", "my_host-0123": "my_host", "odd": "odd", "-0123": "-0123", "": "",
	} {
		if got := formerly(dir); got != want {
			t.Errorf("%q is %q, not %q", dir, got, want)
		}
	}
}
