package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// node is a folder with a main file and drop-ins.
type node struct {
	t   *testing.T
	dir string
}

func newNode(t *testing.T, main string) node {
	t.Helper()
	n := node{t, t.TempDir()}
	n.write("config.yaml", main)
	return n
}

func (n node) path(name string) string { return filepath.Join(n.dir, name) }

func (n node) write(name, text string) {
	n.t.Helper()
	write(n.t, n.path(name), text)
}

func (n node) load() *Config {
	n.t.Helper()
	c, err := Load(n.path("config.yaml"), testOptions())
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// says compares the error with want, which stands for the folder as DIR.
func (n node) says(err error, want string) {
	n.t.Helper()
	if got := strings.ReplaceAll(fmt.Sprint(err), n.dir, "DIR"); got != want {
		n.t.Errorf("got  %s\nwant %s", got, want)
	}
}

func organisations(c *Config) string { return fmt.Sprint(slices.Sorted(maps.Keys(c.Organisations))) }

const tokenListener = "listeners: [{address: 'localhost:5000', callers: token}]\n"

func TestLoadDropIns(t *testing.T) {
	n := newNode(t, tokenListener+"organisations: {initech: {}}\n")
	n.write("organisations.d/acme.yaml", "tokens: [{name: a, sha256: "+HashOf("good").String()+"}]\ncredentials: [{name: ci, registry: ghcr.io, username: b, password_file: acme/ghcr}]\n")
	n.write("organisations.d/globex.yaml", "grace: 1h\n")
	n.write("organisations.d/acme/ghcr", "not read here")
	n.write("organisations.d/.hidden.yaml", "not: read")
	n.write("organisations.d/notes.txt", "not read")
	c := n.load()
	equal(t, "organisations", organisations(c), "[acme globex initech]")
	equal(t, "broken", len(c.Broken), 0)
	equal(t, "warnings", len(c.Warnings), 0)
	acme := c.Organisations["acme"]
	equal(t, "file", acme.File, n.path("organisations.d/acme.yaml"))
	equal(t, "password_file", acme.Credentials[0].PasswordFile, n.path("organisations.d/acme/ghcr"))
	equal(t, "folder", acme.Credentials[0].Folder, n.path("organisations.d/acme"))
	equal(t, "directory", c.OrganisationsDirectory, n.path("organisations.d"))
	equal(t, "files", fmt.Sprint(slices.Sorted(maps.Keys(c.Files))), "[ acme globex]")
	equal(t, "hash", c.Files["globex"].SHA256, hashOf([]byte("grace: 1h\n")))
	equal(t, "hash of the main file", len(c.Files[""].SHA256), 64)
	if err := c.Validate(); err != nil {
		t.Errorf("what was loaded is not valid: %v", err)
	}
}

// TestBrokenDropIns: each puts out one organisation and says why.
func TestBrokenDropIns(t *testing.T) {
	n := newNode(t, tokenListener+"registries: {r.example: {aliases: [initrode]}}\norganisations: {initech: {grace: 1h}}\n")
	n.write("organisations.d/acme.yaml", "grace: 1h\n")
	n.write("organisations.d/empty.yaml", "")
	n.write("organisations.d/globex.yaml", "grace: soon\n")
	n.write("organisations.d/initech.yaml", "grace: 2h\n")
	n.write("organisations.d/initrode.yaml", "grace: 2h\n")
	n.write("organisations.d/Upper.yaml", "grace: 2h\n")
	n.write("organisations.d/large.yaml", "#"+strings.Repeat("x", maxDropIn))
	n.write("organisations.d/folder.yaml/x", "")
	if err := syscall.Mkfifo(n.path("organisations.d/pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", n.path("organisations.d/gone.yaml")); err != nil {
		t.Fatal(err)
	}
	c := n.load()
	equal(t, "organisations", organisations(c), "[acme initech]")
	equal(t, "the main file's entry", short(c.Organisations["initech"].Grace), "1h")
	for name, want := range map[string]string{
		"empty":    "DIR/organisations.d/empty.yaml: the file is empty: write at least one key, or remove the file",
		"globex":   `DIR/organisations.d/globex.yaml:1:8: grace: "soon" is no duration: write a number with a unit, as in 60s, 5m, 24h or 7d`,
		"initech":  `DIR/organisations.d/initech.yaml: organisation "initech" is in the main file too, which stands: remove one of the two`,
		"initrode": "DIR/organisations.d/initrode.yaml:1:1: organisation initrode is called like registry r.example, and image names may begin with either: rename one",
		"Upper":    `DIR/organisations.d/Upper.yaml:1:1: "Upper" is no organisation's name: use lower-case letters and digits with single . _ or - between them`,
		"large":    "DIR/organisations.d/large.yaml: the file cannot be read: it has more than 1048576 bytes, which is the most that is read: make it smaller",
		"folder":   "DIR/organisations.d/folder.yaml: the file cannot be read: this is no regular file: check its name and who may read it",
		"pipe":     "DIR/organisations.d/pipe.yaml: the file cannot be read: this is no regular file: check its name and who may read it",
	} {
		n.says(c.Broken[name], want)
	}
	equal(t, "broken", len(c.Broken), 8)
}

func TestDropInFolders(t *testing.T) {
	t.Run("named but missing", func(t *testing.T) {
		n := newNode(t, "log: {level: info}\norganisations_directory: orgs\n")
		c := n.load()
		n.says(errors.New(strings.Join(c.Warnings, "\n")), "DIR/config.yaml:2:26: organisations_directory: there is no folder DIR/orgs, so no organisations are read from it: make it")
	})
	t.Run("not named and missing", func(t *testing.T) {
		c := newNode(t, "log: {level: info}\n").load()
		equal(t, "warnings", len(c.Warnings), 0)
		equal(t, "directory", c.OrganisationsDirectory, "")
	})
	t.Run("a file", func(t *testing.T) {
		n := newNode(t, "organisations_directory: config.yaml\n")
		_, err := Load(n.path("config.yaml"), testOptions())
		n.says(err, "DIR/config.yaml:1:26: organisations_directory: the folder cannot be read: open DIR/config.yaml: not a directory: check who may read it")
	})
	t.Run("yml", func(t *testing.T) {
		n := newNode(t, "organisations_directory: orgs\n")
		n.write("orgs/acme.yml", "grace: 1h\n")
		n.says(errors.New(strings.Join(n.load().Warnings, "\n")), `DIR/config.yaml:1:26: organisations_directory: "acme.yml" is not read: rename it to end in .yaml`)
	})
	t.Run("swapped by symlink", func(t *testing.T) { // as Kubernetes and our own deliveries do
		n := newNode(t, "organisations_directory: orgs/now\n")
		n.write("orgs/v1/acme.yaml", "credentials: [{name: ci, registry: ghcr.io, username: b, password_file: acme/x}]\n")
		if err := os.Symlink("v1", n.path("orgs/now")); err != nil {
			t.Fatal(err)
		}
		c := n.load()
		equal(t, "organisations", organisations(c), "[acme]")
		equal(t, "file", c.Organisations["acme"].Credentials[0].PasswordFile, n.path("orgs/now/acme/x"))
	})
}

func TestUnreadableMainFile(t *testing.T) {
	n := newNode(t, "")
	_, err := Load(n.path("none.yaml"), testOptions())
	n.says(err, "DIR/none.yaml: the file cannot be read: no such file or directory: check its name and who may read it")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
	_, err = Load(n.dir, testOptions())
	n.says(err, "DIR: the file cannot be read: this is no regular file: check its name and who may read it")
}

// Whoever writes a drop-in keeps no right for longer than the main file has it, also where
// that became shorter while the drop-in was bad. In the main file the operator decides.
func TestGrace_OfADropIn(t *testing.T) {
	n := newNode(t, tokenListener+"cache: {grace: 12h}\norganisations: {initech: {grace: 30d}}\n")
	n.write("organisations.d/acme.yaml", "grace: 30d\n")
	n.write("organisations.d/globex.yaml", "grace: 1h\n")
	c := n.load()
	holds := func(want string) {
		t.Helper()
		var all []string
		for _, name := range []string{"acme", "globex", "initech"} {
			o := c.Organisations[name]
			all = append(all, short(o.GraceIn(c)))
		}
		equal(t, "grace", strings.Join(all, " "), want)
	}
	holds("12h 1h 720h")
	n.says(errors.New(strings.Join(c.Warnings, "\n")), "DIR/organisations.d/acme.yaml:1:8: grace: the main file's cache.grace is shorter, which holds: remove the key, or write less")

	n.write("organisations.d/globex.yaml", "grace: soon\n")
	n.write("config.yaml", tokenListener+"cache: {grace: 30m}\norganisations: {initech: {grace: 30d}}\n")
	var err error
	if c, err = c.Reload(); err != nil {
		t.Fatal(err)
	}
	holds("30m 30m 720h")
}

// TestListenersOrganisation must exist somewhere, even if it is broken.
func TestListenersOrganisation(t *testing.T) {
	n := newNode(t, "listeners: [{address: 'localhost:5000', organisation: acme}]\n")
	_, err := Load(n.path("config.yaml"), testOptions())
	n.says(err, `DIR/config.yaml:1:55: listeners[0].organisation: organisation "acme" does not exist: add it under organisations or as a drop-in`)
	n.write("organisations.d/acme.yaml", "grace: soon\n")
	equal(t, "broken", len(n.load().Broken), 1)
	n.write("organisations.d/acme.yaml", "grace: 1h\n")
	equal(t, "organisations", organisations(n.load()), "[acme]")
}

func TestReloadKeepsWhatWasGood(t *testing.T) {
	n := newNode(t, tokenListener)
	n.write("organisations.d/acme.yaml", "grace: 1h\n")
	n.write("organisations.d/globex.yaml", "registries: {r.example: {}}\n")
	n.write("organisations.d/initech.yaml", "grace: 1h\n")
	before := n.load()

	n.write("config.yaml", "listeners: []\n")
	if _, err := before.Reload(); err == nil {
		t.Error("a bad main file was taken")
	}

	n.write("config.yaml", tokenListener+"registries: {r.example: {}}\n")
	n.write("organisations.d/acme.yaml", "grace: soon\n")
	n.write("organisations.d/globex.yaml", "grace: soon\n")
	n.write("organisations.d/new.yaml", "grace: soon\n")
	if err := os.Remove(n.path("organisations.d/initech.yaml")); err != nil {
		t.Fatal(err)
	}
	after, err := before.Reload()
	if err != nil {
		t.Fatal(err)
	}
	// acme goes on with what it had. globex had a registry that is the platform's
	// now, new had nothing, initech is gone.
	equal(t, "organisations", organisations(after), "[acme]")
	equal(t, "broken", fmt.Sprint(slices.Sorted(maps.Keys(after.Broken))), "[acme globex new]")
	equal(t, "grace", short(after.Organisations["acme"].Grace), "1h")
	equal(t, "organisations before", organisations(before), "[acme globex initech]")

	n.write("organisations.d/acme.yaml", "grace: 3h\n")
	again, err := after.Reload()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "grace, mended", short(again.Organisations["acme"].Grace), "3h")
}

func TestReloadWithoutAFile(t *testing.T) {
	c, err := Default(testOptions()).Reload()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "listeners", len(c.Listeners), 1)
}

func TestReloadOrganisations(t *testing.T) {
	n := newNode(t, "listeners: [{address: 'localhost:5000', organisation: acme}, {address: 'localhost:5002', callers: token}]\norganisations: {initech: {}}\n")
	n.write("organisations.d/acme.yaml", "grace: 1h\n")
	first := n.load()

	n.write("organisations.d/globex.yaml", "credentials: [{name: a, registry: r.example, username: b, password_file: globex/x}]\n")
	added := first.ReloadOrganisations("globex")
	equal(t, "added", organisations(added), "[acme globex initech]")
	equal(t, "warnings", len(added.Warnings), 3) // of the listener for acme; no token, and no such registry
	equal(t, "before", organisations(first)+fmt.Sprint(len(first.Warnings), len(first.Files)), "[acme initech]1 2")

	equal(t, "warnings of another copy", len(first.ReloadOrganisations("acme").Warnings), 1)

	n.write("organisations.d/acme.yaml", "grace: soon\n")
	broken := added.ReloadOrganisations("acme")
	equal(t, "still there", short(broken.Organisations["acme"].Grace), "1h")
	equal(t, "but broken", len(broken.Broken), 1)
	equal(t, "not broken before", len(added.Broken), 0)

	n.write("organisations.d/acme.yaml", "grace: 2h\n")
	mended := broken.ReloadOrganisations("acme")
	equal(t, "mended", short(mended.Organisations["acme"].Grace), "2h")
	equal(t, "not broken", len(mended.Broken), 0)

	for _, name := range []string{"acme", "globex"} {
		if err := os.Remove(n.path("organisations.d/" + name + ".yaml")); err != nil {
			t.Fatal(err)
		}
	}
	gone := mended.ReloadOrganisations("globex", "acme", "initech")
	equal(t, "gone", organisations(gone), "[initech]")
	equal(t, "warnings that are left", len(gone.Warnings), 1)
	equal(t, "files", len(gone.Files), 1)
	n.says(gone.Broken["acme"], "DIR/organisations.d/acme.yaml: the drop-in is gone, but listeners[0] is for this organisation: put it back, or change the listener")
	equal(t, "only that one", len(gone.Broken), 1)
}

// What is said of a listener depends on who there is: it comes and goes with a
// drop-in, at its line of the main file.
func TestWarningsOfListenersFollowDropIns(t *testing.T) {
	const ofListener = "DIR/config.yaml:3:62: listeners[1].organisation: whoever reaches this address pulls as organisation \"initech\", the containers of the other organisations on this node too: set callers: token"
	n := newNode(t, "listeners:\n  - {address: 'localhost:5002', callers: token}\n  - {address: 'localhost:5000', callers: open, organisation: initech}\ncache: {access_ttl: 2h}\norganisations: {initech: {}}\n")
	n.write("organisations.d/keep", "")
	ours := func(c *Config) string {
		return strings.ReplaceAll(strings.Join(c.Warnings, "\n"), n.path(""), "DIR")
	}
	const ofCache = "DIR/config.yaml:4:21: cache.access_ttl: a right that a registry withdrew works on for this long: keep it under an hour"
	first := n.load()
	equal(t, "alone", ours(first), ofCache)

	n.write("organisations.d/globex.yaml", "grace: 1h\n")
	two := first.ReloadOrganisations("globex")
	equal(t, "with another", ours(two), ofListener+"\n"+ofCache)
	n.write("organisations.d/hooli.yaml", "grace: 1h\n")
	equal(t, "with two others", ours(two.ReloadOrganisations("hooli")), ofListener+"\n"+ofCache)
	equal(t, "read anew", ours(n.load()), ofListener+"\n"+ofCache)

	if err := os.Remove(n.path("organisations.d/globex.yaml")); err != nil {
		t.Fatal(err)
	}
	equal(t, "alone again", ours(two.ReloadOrganisations("globex")), ofCache)
	equal(t, "the first one still", ours(first), ofCache)
}

func TestNeedsRestart(t *testing.T) {
	before := parse(t, tokenListener)
	for text, want := range map[string]string{
		tokenListener: "[]",
		"listeners: [{address: 'localhost:5000', names: [a.internal]}]\nlog: {level: debug}\ncache: {grace: 1h}\nregistries: {a.example: {}}\norganisations: {acme: {}}\n": "[]",
		"listeners: [{address: 'localhost:5009', callers: token}]\nlog: {format: json}\n":                                                                                  "[listeners[0].address log.format]",
		"listeners: [{address: 'localhost:5000', tls: {cert_file: a, key_file: b}}]\ncache: {directory: x, max_size: 1GB}\n":                                               "[listeners[0].tls cache.directory cache.max_size]",
		"listeners: [{address: 'localhost:5000'}, {address: 'localhost:5002'}]\n":                                                                                          "[listeners]",
	} {
		equal(t, text, fmt.Sprint(before.NeedsRestart(parse(t, text))), want)
	}
}

func TestCheck(t *testing.T) {
	n := newNode(t, "organisations: {initech: {}}\nregistries: {r.example: {}}\n")
	n.write("organisations.d/acme.yaml", "grace: 1h\n")
	r := Check(n.path("config.yaml"), testOptions())
	equal(t, "ok", r.OK(), true)
	equal(t, "warnings", len(r.Warnings), 1) // nobody pulls as initech

	n.write("organisations.d/acme.yaml", "grace: soon\nregistries: x\n")
	n.write("organisations.d/globex.yaml", "grace: soon\n")
	r = Check(n.path("config.yaml"), testOptions())
	equal(t, "errors of all drop-ins", len(r.Errors), 3)
	equal(t, "line", r.Errors[1].Line, 2)
	equal(t, "column", r.Errors[1].Column, 13)
	equal(t, "path", r.Errors[1].Path, "registries")

	n.write("config.yaml", "listeners: []\n")
	equal(t, "errors of the main file and all drop-ins", len(Check(n.path("config.yaml"), testOptions()).Errors), 4)
	equal(t, "a file that is not there", len(Check(n.path("none"), testOptions()).Errors), 1)
}

func TestCheckDropIn(t *testing.T) {
	n := newNode(t, "organisation_registries: {allow: false}\norganisations_directory: orgs\n")
	n.write("orgs/acme.yaml", "registries: {r.example: {}}\n") // by its folder
	n.write("new/globex.yaml", "grace: 1h\nregistries: {r.example: {}}\n")
	n.write("new/Globex.yaml", "grace: 1h\n")
	n.write("new/globex.txt", "grace: 1h\n")
	n.write("new/main.yaml", "log: {level: info}\ngrace: 1h\n")
	opts := testOptions()
	opts.Main = n.path("config.yaml")
	const refused = "organisations may not bring registries to this node: remove it, or ask the operator for organisation_registries.allow"
	for file, want := range map[string]string{
		"orgs/acme.yaml":  "DIR/orgs/acme.yaml:1:1: registries: " + refused,
		"new/globex.yaml": "DIR/new/globex.yaml:2:1: registries: " + refused,
		"new/Globex.yaml": `DIR/new/Globex.yaml:1:1: "Globex" is no organisation's name: use lower-case letters and digits with single . _ or - between them`,
		"new/globex.txt":  "DIR/new/globex.txt: a drop-in is called NAME.yaml, after its organisation: rename it",
		"new/main.yaml":   `DIR/new/main.yaml:2:1: unknown key "grace": remove it; known here are admin, audit, cache, fleet, helpers, listeners, log, metrics, organisation_registries, organisations, organisations_directory, policy, registries, tracing, unlisted_registries, upstream`,
	} {
		n.says(Check(n.path(file), opts).Errors, want)
	}
	if r := Check(n.path("new/globex.yaml"), testOptions()); !r.OK() || len(r.Warnings) > 0 {
		t.Errorf("against the defaults: %v %v", r.Errors, r.Warnings)
	}
	n.write("config.yaml", "listeners: []\n")
	r := Check(n.path("new/globex.yaml"), opts)
	n.says(r.Warnings, "DIR/config.yaml: the main file cannot be used, so the drop-in was held against the defaults: check the main file first")
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "listeners:\n", tokenListener, "organisations: {acme: {credentials: [{}]}}\n", "? [a]\n: b\n", "a: &a [*a]\n"} {
		f.Add([]byte(seed))
	}
	example, err := os.ReadFile(examplePath)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add(uncommented(f))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text, "berth.yaml", testOptions())
		if err == nil {
			if err := c.Validate(); err != nil {
				t.Errorf("valid once, but not twice: %v", err)
			}
		} else if _, ok := errors.AsType[Problems](err); !ok {
			t.Errorf("an error without a position: %v", err)
		}
		base := Default(testOptions())
		o, _, err := base.dropIn("acme", "/d/acme.yaml", text)
		if err != nil {
			return
		}
		for _, c := range o.Credentials {
			if c.Helper != nil || c.PasswordCredential != "" || c.PasswordFile != "" && !strings.HasPrefix(c.PasswordFile, "/d/acme/") {
				t.Errorf("a drop-in reaches out: %+v", c)
			}
		}
	})
}

// TestParseDoesNotKnowDropIns: a listener's organisation may be one of them.
func TestParseDoesNotKnowDropIns(t *testing.T) {
	c := parse(t, "listeners: [{address: 'localhost:5000', organisation: acme}]\n")
	equal(t, "organisation", c.Listeners[0].Organisation, "acme")
}

// TestHostileYAML is what a parser could be kept busy with.
func TestHostileYAML(t *testing.T) {
	const n = 1 << 16
	for name, text := range map[string]string{
		"lists":      strings.Repeat("[", n),
		"dashes":     strings.Repeat("- ", n),
		"keys":       strings.Repeat("{a: ", n),
		"indented":   "listeners:\n" + strings.Repeat(" - address: x\n", n),
		"same key":   strings.Repeat("a: 1\n", n),
		"laughs":     "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n",
		"one scalar": "log: {level: " + strings.Repeat("x", n) + "}",
	} {
		_, err := Parse([]byte(text), "berth.yaml", testOptions())
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if len(err.Error()) > 100*maxShown*10 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}
