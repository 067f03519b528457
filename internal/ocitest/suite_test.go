package ocitest

import (
	"testing"

	"berth/oci"
)

func TestSuitePassesASource(t *testing.T) {
	TestSource(t, Suite{New: func(t *testing.T, r *Registry, c Caller) oci.Source {
		return newNaive(t, r, c, "")
	}})
}
