package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/internal/admin"
	"berth/internal/config"
)

// nodeFlags are those of a command that talks to the running node.
type nodeFlags struct {
	socket string
	json   bool
}

// flags adds those that all such commands have.
func (a *nodeFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&a.socket, "socket", "", "the node's socket (default: admin.socket of the configuration)")
	c.Flags().BoolVar(&a.json, "json", false, "answer in JSON")
}

// client is for the node that runs with the configuration that o names.
func (a *nodeFlags) client(o *options) (*admin.Client, error) {
	path := a.socket
	if path == "" {
		// A file that was named and is not there would lead to another node's socket.
		if _, err := os.Stat(o.config); o.config != "" && errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		path = config.SocketOf(o.path(), config.Options{})
	}
	if path == "" {
		return nil, errors.New("the configuration gives the node no socket: set admin.socket and restart it")
	}
	return admin.NewClient(path), nil
}

// printAnswer writes an answer: in JSON, or as show writes it for people.
func printAnswer[A any](c *cobra.Command, asJSON bool, answer A, show func(io.Writer, A)) error {
	var b strings.Builder
	if asJSON {
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(answer); err != nil {
			return err
		}
	} else {
		show(&b, answer)
	}
	_, err := io.WriteString(c.OutOrStdout(), b.String())
	return err
}

// organisationFlag adds --org, which may be written out.
func organisationFlag(c *cobra.Command, into *string, usage string) {
	c.Flags().StringVar(into, "org", "", usage)
	c.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "organisation" {
			name = "org"
		}
		return pflag.NormalizedName(name)
	})
}

// showReload is what came of a reload.
func showReload(w io.Writer, r admin.Reload) {
	showConfiguration(w, r)
	for _, key := range r.NeedsRestart {
		fmt.Fprintf(w, "needs a restart: %s\n", key)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", warning)
	}
}

// showConfiguration is what reload and status have in common. Status has the rest among
// what needs attention.
func showConfiguration(w io.Writer, r admin.Reload) {
	if r.Main == nil {
		fmt.Fprintln(w, "configuration: the defaults, without a file")
	} else {
		fmt.Fprintf(w, "configuration %s: %s%s\n", r.Main.Path, outcome(r.Main.State), short(r.Main.SHA256))
		showErrors(w, r.Main.Errors)
	}
	for _, o := range r.Organisations {
		fmt.Fprintf(w, "organisation %s: %s%s\n", o.Organisation, outcome(o.State), short(o.SHA256))
		showErrors(w, o.Errors)
	}
}

func outcome(s admin.State) string {
	switch s {
	case admin.Applied:
		return "in force"
	case admin.Kept:
		return "the file is bad, what was in force before stays"
	case admin.Failed:
		return "the file is bad, the organisation cannot pull"
	case admin.Removed:
		return "removed"
	}
	return string(s)
}

func short(hash string) string {
	if hash == "" {
		return ""
	}
	return " (sha256 " + hash[:min(12, len(hash))] + ")"
}

func showErrors(w io.Writer, errs []string) {
	for _, err := range errs {
		fmt.Fprintf(w, "  %s\n", err)
	}
}

// inBytes writes a number of bytes for people, as the configuration reads it.
func inBytes(n int64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + units[unit]
}
