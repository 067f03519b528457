package golden

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	subcommand = regexp.MustCompile(`(?m)^  ([a-z]+) +\S`)
	usageLine  = regexp.MustCompile(`(?m)^Usage:\n((?:  .*\n)+)`)
	flagLine   = regexp.MustCompile(`(?m)^  +((?:-\w, |    )--.*)$`)
)

// Names of commands, their arguments and flags, from their own help.
func TestGolden_Commands(t *testing.T) {
	var b strings.Builder
	var walk func(path []string)
	walk = func(path []string) {
		code, help, complaint := command(t, nil, append(path, "--help")...)
		if code != 0 || complaint != "" {
			t.Fatalf("berth %v --help: %d, %s", path, code, complaint)
		}
		for line := range strings.Lines(usageLine.FindStringSubmatch(help)[1]) {
			fmt.Fprintf(&b, "%s\n", strings.TrimSpace(line))
		}
		own, _, _ := strings.Cut(help, "\nGlobal Flags:")
		for _, f := range flagLine.FindAllStringSubmatch(own, -1) {
			if !strings.Contains(f[1], "--help") {
				fmt.Fprintf(&b, "    %s\n", strings.TrimSpace(f[1]))
			}
		}
		if _, rest, ok := strings.Cut(own, "\nAvailable Commands:\n"); ok {
			names, _, _ := strings.Cut(rest, "\n\n")
			for _, c := range subcommand.FindAllStringSubmatch(names+"\n", -1) {
				if c[1] != "help" {
					walk(append(slices.Clone(path), c[1]))
				}
			}
		}
	}
	walk(nil)
	hold(t, "commands", "Commands, their arguments and flags, from --help.", b.String())
}

// What a command ends with where there is no node or the command line is wrong.
func TestGolden_ExitCodes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "berth.yaml")
	write(t, file, "admin: {socket: "+filepath.Join(dir, "none.sock")+"}\ncache: {directory: "+filepath.Join(dir, "cache")+"}\n")
	bad := filepath.Join(dir, "bad.yaml")
	write(t, bad, "listenrs: []\n")
	var b strings.Builder
	for _, line := range []string{
		"", "version", "version of-what", "no-such-command", "--no-such-flag",
		"serve an-argument", "serve --no-such-flag", "serve --listen nonsense", "serve --listen example.com:5000", "serve --listen 0.0.0.0:0",
		"serve --max-size lots", "serve --config BAD",
		"check one two", "check BAD", "check --json BAD", "check NONE", "check FILE",
		"reload", "reload x", "status", "status x", "status --ready", "failures", "failures x", "failures --since yesterday",
		"diagnose", "diagnose a b", "purge", "purge x", "purge --org acme", "list", "list x", "prewarm", "prewarm app",
		"name", "name a b", "name Wrong", "name app", "name --org acme app",
		"setup", "setup x", "setup docker x", "setup containerd --write --undo",
		"token", "token a b", "token Wrong!", "completion", "completion tcsh",
	} {
		args := strings.Fields(strings.NewReplacer("BAD", bad, "NONE", filepath.Join(dir, "none.yaml"), "FILE", file).Replace(line))
		if len(args) > 0 && !strings.Contains(line, "--config") {
			args = append(args, "--config", file) // not this machine's own
		}
		if strings.HasPrefix(line, "check ") {
			args = append(args, asRoot()...)
		}
		code, _, complaint := command(t, []string{"CACHE_DIRECTORY=" + filepath.Join(dir, "cache")}, args...)
		fmt.Fprintf(&b, "%d berth %s\n", code, line)
		for line := range strings.Lines(strings.ReplaceAll(complaint, dir, "DIR")) {
			fmt.Fprintf(&b, "    %s\n", strings.TrimRight(masked(line), "\n"))
		}
	}
	hold(t, "exit_codes", "Exit codes of commands (0 done, 1 failed, 2 wrong command line), with a node that does not run, and what they say on standard error.", b.String())
}

// asRoot makes root's check its own: there may be a user berth on this machine, who
// cannot read the folders of tests.
func asRoot() []string {
	if os.Geteuid() != 0 {
		return nil
	}
	return []string{"--user", "root"}
}
