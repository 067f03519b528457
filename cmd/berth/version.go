package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is what a build calls itself: -ldflags "-X main.release=1.2.3".
var release string //nolint:gochecknoglobals // only the linker writes it

// version of the program: the release, or the module's version, or the commit it
// was built from.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "0.0.0-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "0.0.0-dev"
}

// released is what berth version says.
type released struct {
	Version string `json:"version"`
}

func versionCommand() *cobra.Command {
	var sbom, inJSON bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if sbom {
				return writeSBOM(c.OutOrStdout())
			}
			return printAnswer(c, inJSON, released{version()}, func(w io.Writer, p released) { fmt.Fprintln(w, "berth", p.Version) })
		},
	}
	c.Flags().BoolVar(&inJSON, "json", false, "answer in JSON")
	c.Flags().BoolVar(&sbom, "sbom", false, "print what this program was built from, as CycloneDX JSON")
	return c
}
