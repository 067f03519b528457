package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/config"
	"berth/internal/ocitest"
	"berth/oci"
)

// These hold pages to the program. Every block of commands there says before it what runs
// it: "run: NAME" a script here, "e2e: TEST" a test with real clients, "not run: WHY" nobody.
// YAML is checked.

// block is a fenced block of a document.
type block struct {
	document, marker, language, text string
}

var fenced = regexp.MustCompile("(?s)(?:<!-- ([^\n]*?) -->\n)?```(\\w*)\n(.*?)```\n")

func blocksOf(t *testing.T, document string) (all []block) {
	t.Helper()
	for _, m := range fenced.FindAllStringSubmatch(page(t, document), -1) {
		all = append(all, block{document, m[1], m[2], m[3]})
	}
	if len(all) == 0 {
		t.Fatalf("%s has no blocks", document)
	}
	return all
}

func page(t *testing.T, document string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", document))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var documents = []string{"README.md", "doc/operations.md", "doc/policy.md", "doc/audit.md", "doc/fleet.md", "doc/secrets.md"}

func TestDocumentsAreMarked(t *testing.T) {
	t.Parallel()
	var tests strings.Builder
	files, _ := filepath.Glob("../../e2e/*_test.go")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(text)
	}
	for _, document := range documents {
		for _, b := range blocksOf(t, document) {
			kind, names, _ := strings.Cut(b.marker, ": ")
			switch {
			case b.language == "yaml" && b.marker == "":
				checkYAML(t, b)
			case b.language == "json" || b.language == "hcl": // nothing is run
			case kind == "e2e":
				for name := range strings.FieldsSeq(names) {
					if !strings.Contains(tests.String(), "func "+name+"(t *testing.T)") {
						t.Errorf("%s: there is no %s", document, name)
					}
				}
			case kind == "run" && scenarios[names] != nil, kind == "ci", kind == "not run" && names != "":
			default:
				t.Errorf("%s: nothing runs %q %s\n%s", document, b.marker, b.language, b.text)
			}
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(page(t, document), -1) {
			if _, err := os.Stat(filepath.Join("../..", filepath.Dir(document), link[1])); err != nil {
				t.Errorf("%s: %v", document, err)
			}
		}
	}
}

// checkYAML is berth check.
func checkYAML(t *testing.T, b block) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "berth.yaml")
	main := file
	if name := named(b.text); strings.HasPrefix(name, "organisations.d/") {
		file = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := config.Options{}
	if main != file {
		o.Main = ""
	}
	for _, e := range config.Check(file, o).Errors {
		if !strings.Contains(e.Error(), "secrets/") && !strings.Contains(e.Error(), "acme/ghcr") { // the file with the secret is made by a command beside
			t.Errorf("%s: %s\n%s", b.document, e, b.text)
		}
	}
}

// named is the file name in the first line's comment.
func named(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	name, _ := strings.CutPrefix(first, "# ")
	return strings.TrimPrefix(name, "/etc/berth/")
}

// scenarios set up what the blocks of a name are run in.
var scenarios = map[string]func(*script, *testing.T){
	"first":    func(*script, *testing.T) {},
	"build":    func(*script, *testing.T) {},
	"hub":      (*script).hub,
	"platform": (*script).platform,
	"look":     (*script).platform,
	"page":     (*script).platform,
	"prewarm":  (*script).platform,
	"purge":    (*script).platform,
	"remove":   (*script).platform,
	"policy":   (*script).platform,
	"audit":    (*script).audited,
}

// script runs blocks in a folder.
type script struct {
	dir  string
	home *home
	out  string
	pull func(t *testing.T)
	// conf is the configuration that berth's commands get where a block names none.
	conf string
}

// prelude stands for what is around berth. What serves goes to the background
// and is waited for.
const prelude = `
set -euo pipefail
sudo() { "$@"; }
mkdir -p "$HERE"
go() {
  case "$1 $2" in
  "build ./cmd/berth") cp "$BERTH" berth ;;
  "run ./cmd/berth") berth "${@:3}" ;;
  *) return 1 ;;
  esac
}
install() {
  local args=("${@//\/usr\/local\/bin\//$HERE}")
  for i in "${!args[@]}"; do [[ ${args[i]} == -g ]] && args[i+1]=$(id -g); done
  command install "${args[@]}"
}
berth() {
  local flags=()
  if [[ -n $CONF && " $* " != *" --config "* ]]; then flags=(--config "$CONF"); fi
  if [[ " $* " != *" serve "* && $1 != serve ]]; then command "$BERTH" "${flags[@]}" "$@"; return; fi
  if [[ " $* " != *" --config "* && -z $CONF ]]; then flags+=(--listen 127.0.0.1:0); fi
  command "$BERTH" "${flags[@]}" "$@" >/dev/null 2>serve.log &
  echo $! >>pids
  for _ in $(seq 600); do grep -q 'answering pulls' serve.log && return; sleep 0.05; done
  cat serve.log; return 1
}
`

func (s *script) run(t *testing.T, text, input string) {
	t.Helper()
	berth := program(t, berthProgram) // to build it is no part of the time
	cmd := exec.CommandContext(soon(t), "bash", "-c", prelude+strings.NewReplacer(
		"/etc/berth", s.dir, "/run/berth/admin.sock", filepath.Join(s.dir, "admin.sock")).Replace(text))
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "BERTH="+berth, "HERE="+s.dir+"/bin/", "CONF="+s.conf, "CACHE_DIRECTORY="+filepath.Join(s.dir, "cache"))
	cmd.Stdin = strings.NewReader(input)
	out, err := os.Create(filepath.Join(s.dir, "out")) // a pipe would wait for what goes on in the background
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	failed := cmd.Run()
	told, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	s.out += string(told)
	if failed != nil {
		t.Fatalf("%v\n%s\n%s", failed, text, told)
	}
}

// stop ends what serves.
func (s *script) stop(t *testing.T) {
	t.Helper()
	pids, err := os.ReadFile(filepath.Join(s.dir, "pids"))
	if err != nil {
		return
	}
	for line := range strings.FieldsSeq(string(pids)) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err == nil {
			end(t, pid)
		}
	}
}

// end asks a process to end, which is no child of ours, and waits until it has: what it
// writes at its end is in a folder that is removed next.
func end(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000); n == 0 && err == nil {
		t.Errorf("process %d does not end", pid)
	}
}

func (s *script) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// yamlOf is the block of a document that begins with a file's name.
func yamlOf(t *testing.T, document, name string) string {
	t.Helper()
	for _, b := range blocksOf(t, document) {
		if b.language == "yaml" && named(b.text) == name {
			return b.text
		}
	}
	t.Fatalf("%s has no %s", document, name)
	return ""
}

// here is what an example cannot say: this test's addresses and folders.
func (s *script) here() string {
	return fmt.Sprintf("cache: {directory: %q, min_free: 1MB}\nadmin: {address: \"127.0.0.1:0\", socket: %q}\n", filepath.Join(s.dir, "cache"), filepath.Join(s.dir, "admin.sock"))
}

// hub is a few hosts with a Docker Hub account, which is all that may pull here.
func (s *script) hub(t *testing.T) {
	t.Helper()
	hub := ocitest.New(t, ocitest.Options{Private: true, Auth: ocitest.Bearer})
	image := hub.AddImage("library/nginx", "latest", ocitest.Image{Layers: []int64{20_000}})
	hub.AddUser("bot", "hub-token", "library/**")
	address := freeAddress(t)
	text := strings.Replace(yamlOf(t, "README.md", "berth.yaml"), "  docker.io:\n", fmt.Sprintf("  docker.io:\n    endpoint: %q\n", hub.URL()), 1)
	s.write(t, "berth.yaml", text+fmt.Sprintf("listeners: [{address: %q}]\n", address)+s.here())
	s.pull = func(t *testing.T) {
		c := s.home.client("http://" + address)
		for range 3 {
			c.mustPull("nginx", image, "")
		}
	}
}

// platform is a node of acme's and others.
func (s *script) platform(t *testing.T) {
	t.Helper()
	ghcr := ocitest.New(t, ocitest.Options{Private: true, Auth: ocitest.Bearer})
	ghcr.AddImage("acme/app", "1", ocitest.Image{Layers: []int64{20_000}})
	ghcr.AddUser("acme-bot", "ghcr-token", "acme/**")
	address := freeAddress(t)
	text := strings.Replace(yamlOf(t, "README.md", "config.yaml"), "localhost:5000", address, 1)
	s.conf = filepath.Join(s.dir, "config.yaml")
	s.write(t, "config.yaml", text+fmt.Sprintf("registries: {ghcr.io: {endpoint: %q}}\n", ghcr.URL())+s.here())
	s.write(t, "organisations.d/acme/ghcr", "ghcr-token\n")
	s.write(t, "organisations.d/acme.yaml", yamlOf(t, "README.md", "organisations.d/acme.yaml"))
	s.run(t, "berth serve", "")
}

// audited is a node that has an audit, and something in it.
func (s *script) audited(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("jq is not installed")
	}
	hub := ocitest.New(t, ocitest.Options{})
	image := hub.AddImage("library/nginx", "latest", ocitest.Image{Layers: []int64{20_000}})
	address := freeAddress(t)
	s.conf = filepath.Join(s.dir, "config.yaml")
	s.write(t, "config.yaml", fmt.Sprintf(`listeners: [{address: %q, organisation: acme}]
registries: {docker.io: {endpoint: %q}}
organisations: {acme: {policy: {deny: [docker.io/library/centos]}}}
audit: {file: %q}
`, address, hub.URL(), filepath.Join(s.dir, "audit.jsonl"))+s.here())
	s.run(t, "berth serve", "")
	c := s.home.client("http://" + address)
	c.mustPull("nginx", image, "")
	c.get("/v2/centos/manifests/7")
}

// TestDocumentsRun runs the scripts, each scenario's one after another, and wants
// of what they say what the documents promise.
func TestDocumentsRun(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"README.md first":           nil,
		"README.md build":           nil,
		"README.md hub":             {"berth.yaml: ok", "3 pulls served, 1 charged to Docker Hub, ", "docker.io  shared   ok"},
		"README.md platform":        {"shown only now", "organisations.d/acme.yaml: ok", "organisation acme: in force", "/acme/ghcr.io/acme/app:1\n", "no failed pulls", "first byte"},
		"doc/operations.md look":    {"0 pulls served", "nobody has pulled", "first byte"},
		"doc/operations.md page":    {"<!doctype html>", "</html>"},
		"doc/operations.md prewarm": {"ghcr.io/acme/app:1"},
		"doc/operations.md purge":   {"access will be checked again"},
		"doc/operations.md remove":  {"removed 1 manifests and "},
		"doc/policy.md policy":      {"ghcr.io/acme/app:1: allowed", "docker.io/library/centos:7: allowed"},
		"doc/audit.md audit":        {"\tdocker.io/library/nginx:latest\tsha256:", "policy.deny docker.io/library/centos"},
	}
	for _, document := range documents {
		byName := map[string][]block{}
		for _, b := range blocksOf(t, document) {
			if name, ok := strings.CutPrefix(b.marker, "run: "); ok {
				byName[name] = append(byName[name], b)
			}
		}
		for name, blocks := range byName {
			t.Run(document+" "+name, func(t *testing.T) {
				t.Parallel()
				wanted, known := want[document+" "+name]
				if !known {
					t.Error("nobody looks at what it says")
				}
				s := &script{home: newHome(t)}
				s.dir = s.home.dir
				t.Cleanup(func() { s.stop(t) })
				scenarios[name](s, t)
				for _, b := range blocks {
					if strings.Contains(b.text, "curl") {
						if _, err := exec.LookPath("curl"); err != nil {
							t.Skip("curl is not installed")
						}
					}
					if s.pull != nil && strings.Contains(b.text, "status") {
						s.pull(t)
					}
					input := ""
					if strings.Contains(b.text, "/dev/stdin") {
						input = map[string]string{"hub": "hub-token", "platform": "ghcr-token"}[name]
					}
					s.run(t, b.text, input)
				}
				for _, w := range wanted {
					if !strings.Contains(s.out, w) {
						t.Errorf("%q is not in\n%s", w, s.out)
					}
				}
				if strings.Contains(s.out, "hub-token") || strings.Contains(s.out, "ghcr-token") {
					t.Errorf("a secret is in\n%s", s.out)
				}
			})
		}
	}
}

// The table of symptoms has every class, and texts that somebody really says.
func TestOperationsKnowsTheSymptoms(t *testing.T) {
	t.Parallel()
	text := page(t, "doc/operations.md")
	sources := sourceText(t) + "no basic auth credentials" // dockerd's and containerd's own, where they have no login
	_, table, _ := strings.Cut(text, "## From what the user reads")
	table, _, _ = strings.Cut(table, "\n## ")
	seen := map[string]bool{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, class := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
			seen[class[1]] = true
			if !slices.ContainsFunc(oci.Classes(), func(c oci.Class) bool { return c.String() == class[1] }) {
				t.Errorf("there is no class %s", class[1])
			}
		}
		for _, said := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
			fixed := regexp.MustCompile(`"[^"]*"|\(\d+\)|linux/\w+|organisation acme|registry\.example\.com`).ReplaceAllString(said[1], "\x00")
			for part := range strings.SplitSeq(fixed, "\x00") {
				if part = strings.TrimSpace(part); part != "" && cells[1] != "none" && !strings.Contains(sources, part) {
					t.Errorf("nobody says %q", part)
				}
			}
		}
	}
	for _, c := range oci.Classes() {
		if !seen[c.String()] && c != oci.ClientGone && !strings.Contains(text, "`"+c.String()+"`") {
			t.Errorf("nothing about %s", c)
		}
	}
}

// sourceText is the program, and what the tests with real clients have them say.
func sourceText(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	for _, pattern := range []string{"../../auth/*/*.go", "../../policy/*.go", "../../proxy/*.go", "../../upstream/*.go", "../../upstream/*/*.go", "../../cmd/berth/*.go", "../../internal/node/*.go", "../../e2e/*.go", "../../doc/platform.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(&b, f); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	return b.String()
}

// The table of the log has the fields that there are.
func TestOperationsKnowsTheLog(t *testing.T) {
	t.Parallel()
	code, err := os.ReadFile("../../proxy/log.go")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(page(t, "doc/operations.md"), "## The log")
	table, _, _ = strings.Cut(table, "\n## ")
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(table, -1) {
		told[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`slog\.\w+\("([a-z_]+)"`).FindAllStringSubmatch(string(code), -1) {
		if !told[m[1]] && m[1] != "aborted" {
			t.Errorf("nothing about %s", m[1])
		}
	}
}

// The README names every command.
func TestReadmeKnowsTheCommands(t *testing.T) {
	t.Parallel()
	text := page(t, "README.md")
	for _, c := range rootCommand(&options{}).Commands() {
		if !c.Hidden && c.Name() != "help" && !strings.Contains(text, "`berth "+c.Name()) {
			t.Errorf("nothing about berth %s", c.Name())
		}
	}
}

// allPages are the files of the documentation.
func allPages(t *testing.T) (pages []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "doc/*.md", "doc/platform/*.md", "observability/*.md"} {
		found, err := filepath.Glob(filepath.Join("../..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	if len(pages) < 20 {
		t.Fatalf("%d pages", len(pages))
	}
	return pages
}

// What a page leads to is there, pictures included.
func TestDocuments_LinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchors := func(file string) map[string]bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]bool{}
		for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
			all[strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
		}
		return all
	}
	for _, file := range allPages(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`\]\(([^) :#]*)(?:#([^)]*))?\)`).FindAllStringSubmatch(string(text), -1) {
			to := file
			if link[1] != "" {
				to = filepath.Join(filepath.Dir(file), link[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if link[2] != "" && !anchors(to)[link[2]] {
				t.Errorf("%s: %s has no heading #%s", file, to, link[2])
			}
		}
	}
}
