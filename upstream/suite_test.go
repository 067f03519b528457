package upstream

import (
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// Everything that every Source must do.
func TestSource(t *testing.T) {
	ocitest.TestSource(t, ocitest.Suite{Raw: true, New: func(t *testing.T, r *ocitest.Registry, c ocitest.Caller) oci.Source {
		reg := over(t, r)
		reg.pause = time.Millisecond // retries have tests of their own
		if c.User == "" {
			return reg.As(Identity{Organisation: c.Organisation})
		}
		return reg.As(as(c.Organisation, c.User, c.Password))
	}})
}
