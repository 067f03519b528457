package upstream

import (
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// Everything that every Source must do, against the real Authority.
func TestSource(t *testing.T) {
	ocitest.TestSource(t, ocitest.Suite{Raw: true, New: func(t *testing.T, r *ocitest.Registry, c ocitest.Caller) oci.Source {
		if c.User == "" {
			return over(t, r).As(Identity{Organisation: c.Organisation})
		}
		return over(t, r).As(as(c.Organisation, c.User, c.Password))
	}})
}
