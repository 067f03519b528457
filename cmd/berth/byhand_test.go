package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// otherRoot runs a script as root in a copy of this machine: all that it writes,
// users and units too, goes with it. Installers are the real ones. There is no
// service manager: systemctl checks verbs and enables units, and starts nothing.
const otherRoot = `
set -euo pipefail
mount -t tmpfs tmpfs "$BASE"
mkdir "$BASE"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$BASE/upper,workdir=$BASE/work" "$BASE/root"
mount --rbind /dev "$BASE/root/dev"
mount -t proc proc "$BASE/root/proc"
mkdir -p "$BASE/root/checkout"
cp -r "$CHECKOUT/systemd" "$BASE/root/checkout/"
cp "$BERTH" "$BASE/root/built"
cp "$SCRIPT" "$BASE/root/script"
exec env -i PATH="$PATH:/usr/sbin:/sbin" HOME=/root SYSTEMD_OFFLINE=1 chroot "$BASE/root" bash /script
`

// byHand stands before the commands of the documents.
const byHand = `
set -euo pipefail
umask 0022
cd /checkout
go() { cp /built berth; } # with other flags: those are for the linker
sudo() { "$@"; }
systemctl() {
  local args=()
  for arg; do [[ $arg == --now ]] || args+=("$arg"); done # nothing can be started
  command systemctl "${args[@]}"
}
`

// indentedIn are the commands of a section, which stand there as a block of text.
func indentedIn(t *testing.T, document, section string) string {
	t.Helper()
	_, text, ok := strings.Cut(page(t, document), "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	var b strings.Builder
	for line := range strings.Lines(fenced.ReplaceAllString(text, "")) {
		if command, is := strings.CutPrefix(line, "    "); is {
			b.WriteString(command)
		}
	}
	if !ok || b.Len() == 0 {
		t.Fatalf("%s has no commands below %q", document, section)
	}
	return b.String()
}

// asRoot are the commands of the documents with sudo before them, or in them.
func asRoot(t *testing.T) string {
	t.Helper()
	var lines strings.Builder
	for _, document := range documents {
		for _, b := range blocksOf(t, document) {
			for line := range strings.Lines(b.text) {
				if strings.Contains(line, "sudo ") {
					lines.WriteString(line)
				}
			}
		}
	}
	return lines.String()
}

// What the pages say for an installation by hand is run as it stands, as root: then
// the service's user can read what it must, nobody else can, and the units are
// enabled.
func TestInstalledByHand(t *testing.T) {
	t.Parallel()
	for _, needed := range []string{"unshare", "systemctl", "systemd-sysusers", "setpriv"} {
		if _, err := exec.LookPath(needed); err != nil {
			t.Skip(err)
		}
	}
	base := t.TempDir()
	if out, err := exec.CommandContext(soon(t), "unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", base).CombinedOutput(); err != nil {
		t.Skipf("cannot mount anything: %s", out)
	}
	checkout, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	secretOf := regexp.MustCompile(`(install [^\n#]*/dev/stdin [^\n#]*)`)
	files := secretOf.ReplaceAllString(indentedIn(t, "doc/install.md", "The files"), "$1 <<<not-a-real-token ")
	script := byHand + `
cat >berth.yaml <<'END'
` + yamlOf(t, "README.md", "config.yaml") + `END
cat >acme.yaml <<'END'
` + yamlOf(t, "README.md", "organisations.d/acme.yaml") + `END
install -D -m 0600 /dev/stdin secrets/hub <<<not-a-real-token
` + indentedIn(t, "doc/install.md", "By hand") + files + `
cat >>/etc/berth/config.yaml <<'END'
` + strings.TrimPrefix(yamlOf(t, "README.md", "berth.yaml"), "# berth.yaml\n") + `END
echo "as root: $(berth check)"
echo "as berth: $(setpriv --reuid=berth --regid=berth --clear-groups berth check)"
if setpriv --reuid=nobody --regid=nogroup --clear-groups cat /etc/berth/organisations.d/acme/ghcr /etc/berth/secrets/hub; then exit 9; fi
stat -c '%a %U %G %n' /usr/local/bin/berth /etc/berth/organisations.d /etc/berth/organisations.d/acme/ghcr /etc/berth/secrets/hub
readlink /etc/systemd/system/{sockets.target.wants/berth.socket,multi-user.target.wants/berth.service}
` + asRoot(t)
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(soon(t), "unshare", "--mount", "bash", "-c", otherRoot)
	cmd.Env = append(os.Environ(), "BASE="+base, "CHECKOUT="+checkout, "BERTH="+program(t, berthProgram), "SCRIPT="+file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, &out)
	}
	for _, want := range []string{
		"as root: /etc/berth/config.yaml: ok\n", "as berth: /etc/berth/config.yaml: ok\n",
		"755 root root /usr/local/bin/berth\n", "2750 root berth /etc/berth/organisations.d\n",
		"640 root berth /etc/berth/organisations.d/acme/ghcr\n", "640 root berth /etc/berth/secrets/hub\n",
		"/etc/systemd/system/berth.socket\n/etc/systemd/system/berth.service\n",
		"- no mirror is set: ", "ignoring command 'restart'",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}

// Every systemctl of the pages has a verb that there is, and names units of this
// package, of clients, or none.
func TestSystemctlOfThePages(t *testing.T) {
	t.Parallel()
	verbs := map[string]bool{"daemon-reload": true, "enable": true, "edit": true, "kill": true, "reload": true, "restart": true, "start": true, "status": true, "stop": true}
	others := map[string]bool{"docker": true, "crio": true, "containerd": true}
	option := regexp.MustCompile(" --[a-z-]+=[A-Za-z]+")
	command := regexp.MustCompile("systemctl ([a-z-]+)((?: +[a-z.-]+)*)")
	found := 0
	pages, _ := filepath.Glob("../../doc/*.md")
	for _, file := range append(pages, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(option.ReplaceAllString(string(text), ""), -1) {
			found++
			if !verbs[m[1]] {
				t.Errorf("%s: %s", file, m[0])
			}
			for unit := range strings.FieldsSeq(m[2]) {
				if unit == "--now" || others[unit] {
					continue
				}
				if !strings.Contains(unit, ".") {
					unit += ".service"
				}
				if _, err := os.Stat("../../systemd/" + unit); err != nil {
					t.Errorf("%s: %s: %v", file, m[0], err)
				}
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d", found)
	}
}
