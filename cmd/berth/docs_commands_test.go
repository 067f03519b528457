package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command of berth's that a page shows is one, with flags that it has.
func TestDocuments_CommandsAreThere(t *testing.T) {
	t.Parallel()
	root := rootCommand(&options{})
	seen := 0
	for _, file := range allPages(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			lines = append(lines, strings.Split(m[1], "\n")...)
		}
		for _, m := range regexp.MustCompile("(?m)^    (.*)$|`([^`\n]+)`").FindAllStringSubmatch(string(text), -1) {
			lines = append(lines, m[1]+m[2])
		}
		for _, line := range lines {
			words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "sudo "))
			if len(words) < 2 || words[0] != "berth" {
				continue
			}
			if end := slices.IndexFunc(words, func(w string) bool { return strings.ContainsAny(w[:1], "#|&><;") }); end > 0 {
				words = words[:end]
			}
			seen++
			if err := isCommand(root, words[1:]); err != nil {
				t.Errorf("%s: %s: %v", file, line, err)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d commands", seen)
	}
}

// isCommand says whether berth knows these words and flags; values are not looked at.
func isCommand(root *cobra.Command, words []string) error {
	c, _, err := root.Find(words)
	if err != nil {
		return err
	}
	for _, w := range words {
		name, isFlag := strings.CutPrefix(w, "--")
		name, _, _ = strings.Cut(name, "=")
		name = strings.TrimRight(name, ".,:)]")
		if isFlag && name != "help" && c.Flags().Lookup(name) == nil && c.InheritedFlags().Lookup(name) == nil && (c != root || name != "version") {
			return fmt.Errorf("%s has no --%s", c.CommandPath(), name)
		}
	}
	if c == root && !strings.HasPrefix(words[0], "--") {
		return fmt.Errorf("there is no command %s", words[0])
	}
	return nil
}
