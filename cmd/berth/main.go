// Command berth is a registry proxy for one node: container engines pull through
// it on localhost, and it goes upstream as whoever pulls.
//
// Each command is a file here: its flags, what it asks, and how it prints the
// answer. The running process is in internal/node, and what happens to a pull in
// package proxy and below.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"berth/internal/hung"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(new(options).run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes of all commands.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errSaid ends a command that has already said what is wrong.
var errSaid = errors.New("said")

// usageError is a mistake in the command line.
type usageError struct{ error }

// run is main without the process: it returns the exit code.
func (o *options) run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if o.hung == nil {
		o.hung = &hung.Table{}
	}
	root := rootCommand(o)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errSaid) {
		// Nothing is left to be done when standard error cannot be written.
		_, _ = fmt.Fprintf(stderr, "berth: %v\n", err)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// options are the flags that every command has, and the clock.
type options struct {
	config string
	// now is the clock. If nil, time.Now.
	now func() time.Time
	// hung bounds how long each file may take. If nil, there is one.
	hung *hung.Table
}

// again is what names the configuration in a command to be typed.
func (o *options) again() string {
	if o.config == "" {
		return ""
	}
	return " --config " + o.config
}

func rootCommand(o *options) *cobra.Command {
	var tellVersion bool
	root := &cobra.Command{
		Use:           "berth",
		Short:         "A pull-through cache for container images, on localhost, for any registry and many organisations",
		SilenceUsage:  true,
		SilenceErrors: true,
		// So that a command that there is not is a usage error too.
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if tellVersion {
				_, err := fmt.Fprintln(c.OutOrStdout(), "berth", version())
				return err
			}
			return c.Help()
		},
	}
	// cobra's own flag says it by a template, and text/template keeps every method of every
	// type in the program.
	root.Flags().BoolVarP(&tellVersion, "version", "v", false, "version for berth")
	root.PersistentFlags().StringVar(&o.config, "config", "", "configuration file (default "+defaultConfig+", if it is there)")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, c.CommandPath())}
	})
	root.AddCommand(
		serveCommand(o), checkCommand(o), reloadCommand(o), statusCommand(o), failuresCommand(o), diagnoseCommand(o), purgeCommand(o), removeCommand(o),
		listCommand(o), prewarmCommand(o), nameCommand(o), setupCommand(o), doctorCommand(o), tokenCommand(o), versionCommand(),
	)
	completes(root, o)
	addManual(root)
	knowTopics(root)
	nameTheShells(root)
	return root
}

// knowTopics makes help for a command that there is not an error: cobra says that all
// went well.
func knowTopics(root *cobra.Command) {
	root.SuggestionsMinimumDistance = 2
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil {
		return
	}
	show := help.Run
	help.Run = nil
	help.RunE = func(c *cobra.Command, args []string) error {
		if found, _, err := root.Find(args); err != nil || found == root && len(args) > 0 {
			return usageError{fmt.Errorf("%s: see berth --help", misused(root, args))}
		}
		show(c, args)
		return nil
	}
}

// nameTheShells makes a shell that there is no completion for an error: cobra shows
// the help and says that all went well.
func nameTheShells(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	completion, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	var shells []string
	for _, c := range completion.Commands() {
		shells = append(shells, c.Name())
	}
	completion.Args = nil
	completion.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return usageError{fmt.Errorf("there is no completion for %q: name one of %s", strings.Join(args, " "), strings.Join(shells, ", "))}
	}
}

// usage makes a complaint about arguments a usage error.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			if _, told := errors.AsType[usageError](err); told {
				return err
			}
			return usageError{fmt.Errorf("%s: see %s --help", misused(c, args), c.CommandPath())}
		}
		return nil
	}
}

// misused says what a command takes.
func misused(c *cobra.Command, args []string) string {
	if c.HasSubCommands() && len(args) > 0 {
		unknown := fmt.Sprintf("unknown command %q", args[0])
		if like := c.SuggestionsFor(args[0]); len(like) > 0 {
			unknown += fmt.Sprintf(": did you mean %q?", like[0])
		}
		return unknown
	}
	_, takes, _ := strings.Cut(strings.TrimSuffix(c.Use, " [flags]"), " ")
	if takes == "" {
		return fmt.Sprintf("%s takes no arguments, and got %q", c.CommandPath(), args[0])
	}
	return fmt.Sprintf("%s takes %s, and got %d arguments", c.CommandPath(), takes, len(args))
}
