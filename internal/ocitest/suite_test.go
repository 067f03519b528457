package ocitest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"berth/oci"
)

func TestSuitePassesASource(t *testing.T) {
	TestSource(t, Suite{New: func(t *testing.T, r *Registry, c Caller) oci.Source {
		return newNaive(t, r, c, "")
	}})
}

// Each bug is found by the case that is there for it.
func TestSuiteFindsPlantedBugs(t *testing.T) {
	for planted, in := range map[string]string{
		"digest":        "a faulty blob",
		"cut":           "a faulty blob",
		"content range": "a faulty range",
		"digest header": "resolve without a digest header",
		"stat":          "stat",
		"authorization": "pull",
		"downgrade":     "a redirect from https to http",
		"retry 429":     "rate limited",
		"no retry":      "trouble that passes",
		"classes":       "no credential",
		"secret":        "unreachable",
		"paging":        "list pages of tags",
		"principal":     "principal",
		"context":       "a deadline",
		"close hangs":   "close a held body",
	} {
		t.Run(planted, func(t *testing.T) {
			t.Parallel()
			name := "TestPlantedBug/^" + strings.ReplaceAll(in, " ", "_") + "$"
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+name, "-test.v")
			cmd.Env = append(os.Environ(), plantedBug+"="+planted)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestPlantedBug/"+strings.ReplaceAll(in, " ", "_")) {
				t.Errorf("%q does not find it: %v\n%s", in, err, out)
			}
			if strings.Contains(string(out), "panic: ") {
				t.Errorf("%q finds it by a panic:\n%s", in, out)
			}
		})
	}
}

const plantedBug = "OCITEST_PLANTED_BUG"

// TestPlantedBug is run by TestSuiteFindsPlantedBugs, in a process of its own.
func TestPlantedBug(t *testing.T) {
	planted := os.Getenv(plantedBug)
	if planted == "" {
		t.Skip("it is meant to fail")
	}
	TestSource(t, Suite{New: func(t *testing.T, r *Registry, c Caller) oci.Source {
		return newNaive(t, r, c, planted)
	}})
}
