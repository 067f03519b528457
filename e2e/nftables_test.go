//go:build e2e

package e2e

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inNetwork says to this very test that it runs in a network of its own.
const inNetwork = "E2E_IN_NETWORK"

// The firewall of doc/platform.md lets berth's user out to registries and nobody else of
// this machine, and everybody to berth. It is tried in a network namespace.
func TestNftables(t *testing.T) {
	for _, tool := range []string{"nft", "ip", "setpriv", "unshare"} {
		program{tool, false}.find(t)
	}
	if os.Getenv(inNetwork) == "" {
		self, err := os.Executable()
		must(t, err)
		cmd := exec.CommandContext(t.Context(), "unshare", "--net", self, "-test.run", "^TestNftables$", "-test.v")
		cmd.Env = append(os.Environ(), inNetwork+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestNftables") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	home := tempDir(t, "nft")
	const berthUser, other, registry = "64646", "64647", "198.51.100.7:443"
	rules := strings.NewReplacer(`"berth"`, berthUser, `"_apt"`, "64648").Replace(block(t, "nftables"))
	for _, command := range [][]string{
		{"ip", "link", "set", "lo", "up"}, {"ip", "addr", "add", "198.51.100.7/32", "dev", "lo"},
	} {
		_, err := run(t, home, nil, command[0], command[1:]...)
		must(t, err)
	}
	for _, at := range []string{registry, "127.0.0.1:5000"} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
		must(t, err)
		t.Cleanup(func() { _ = l.Close() })
	}
	reaches := func(uid, at string) bool {
		host, port, _ := net.SplitHostPort(at)
		_, err := run(t, home, nil, "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "bash", "-c", "exec 3<>/dev/tcp/"+host+"/"+port)
		if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) {
			t.Fatal(err)
		}
		return err == nil
	}
	must(t, os.Chmod(home, 0o755))
	if !reaches(other, registry) || !reaches("0", registry) {
		t.Fatal("the registry is not reached without rules")
	}
	_, err := run(t, home, nil, "nft", "--file", writeFile(t, filepath.Join(home, "rules"), rules))
	must(t, err)
	for uid, may := range map[string]bool{berthUser: true, other: false, "0": false} {
		if reaches(uid, registry) != may {
			t.Errorf("user %s reaches a registry: %v", uid, !may)
		}
		if !reaches(uid, "127.0.0.1:5000") {
			t.Errorf("user %s does not reach berth", uid)
		}
	}
}
