//go:build man

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// addManual adds a command that writes a page for each command, and berth.yaml(5) from
// the page on the configuration. packaging/release builds with the tag and runs it.
func addManual(root *cobra.Command) {
	root.AddCommand(&cobra.Command{
		Use:    "man CONFIGURATION.md FOLDER",
		Hidden: true,
		Args:   usage(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, args []string) error {
			return writeManual(root, args[0], args[1])
		},
	})
}

func writeManual(root *cobra.Command, configuration, folder string) error {
	// Without this variable the pages have the day of the build.
	date := time.Now()
	if text, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		date = time.Unix(seconds, 0)
	}
	root.DisableAutoGenTag = true
	header := doc.GenManHeader{Section: "1", Date: &date, Source: "berth " + version(), Manual: "User Commands"}
	if err := doc.GenManTree(root, &header, folder); err != nil {
		return fmt.Errorf("pages of the commands: %w", err)
	}
	text, err := os.ReadFile(configuration)
	if err != nil {
		return err
	}
	_, text, ok := bytes.Cut(text, []byte("# Configuration\n"))
	if !ok {
		return fmt.Errorf("%s does not begin with its title", configuration)
	}
	title := fmt.Sprintf("%% \"BERTH.YAML\" \"5\" \"%s\" \"berth %s\" \"File Formats\"\n\n# NAME\n\nberth.yaml - configuration of berth(1)\n\n# DESCRIPTION\n",
		date.UTC().Format("Jan 2006"), version())
	return os.WriteFile(filepath.Join(folder, "berth.yaml.5"), md2man.Render(append([]byte(title), text...)), 0o644)
}
