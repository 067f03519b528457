package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/internal/config"
)

// What doc/install.md says to write into the configuration is right, and the files
// that it names are there.
func TestInstallPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../doc/install.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 4 {
		t.Fatalf("only %d blocks of configuration", len(blocks))
	}
	for _, block := range blocks {
		if _, err := config.Parse([]byte(block[1]), filepath.Join(t.TempDir(), "config.yaml"), config.Options{}); err != nil {
			t.Errorf("%v in\n%s", err, block[1])
		}
	}
	for _, path := range regexp.MustCompile(`\bsystemd/berth\.\w+`).FindAllString(string(page), -1) {
		if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
			t.Error(err)
		}
	}
	commands := rootCommand(&options{}).Commands()
	for _, m := range regexp.MustCompile(`(?m)(?:^    |\x60)berth (\w+)`).FindAllStringSubmatch(string(page), -1) {
		known := false
		for _, c := range commands {
			known = known || c.Name() == m[1]
		}
		if !known {
			t.Errorf("there is no command %q", m[1])
		}
	}
	unit, err := os.ReadFile("../../systemd/berth.socket")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range config.Default(config.Options{}).Listeners {
		for _, at := range l.Address.Binds() {
			if !strings.Contains(string(unit), "\nListenStream="+at.String()+"\n") {
				t.Errorf("berth.socket does not hold %s, which is answered by default", at)
			}
		}
	}
}
