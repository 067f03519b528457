package setup

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	now  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	keys = daemonKeys{Mirrors: []string{"http://localhost:5000"}, Insecure: []string{"10.0.0.1:5000"}}
)

// writeDaemon merges keys into the file at path.
func writeDaemon(path string) (Written, error) {
	all, err := Plan{Files: []File{Options{File: path}.daemonFile(keys, daemonKeys{})}}.Write(now)
	if err != nil {
		return Written{}, err
	}
	return all[0], nil
}

func TestWriteDaemonJSON(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before string // "-": no file
		after  string // empty: refused, or nothing to do
		others []string
	}{
		"no file":    {before: "-", after: "{\n  \"registry-mirrors\": [\n    \"http://localhost:5000\"\n  ],\n  \"insecure-registries\": [\n    \"10.0.0.1:5000\"\n  ]\n}\n"},
		"empty file": {before: "", after: "{\n  \"registry-mirrors\": [\n    \"http://localhost:5000\"\n  ],\n  \"insecure-registries\": [\n    \"10.0.0.1:5000\"\n  ]\n}\n"},
		"unknown keys in their order, numbers as they are": {
			before: `{"z-new": {"deep": [1e3, 12345678901234567890]}, "live-restore": true, "registry-mirrors": ["https://other"]}`,
			after: "{\n  \"z-new\": {\n    \"deep\": [\n      1e3,\n      12345678901234567890\n    ]\n  },\n  \"live-restore\": true,\n" +
				"  \"registry-mirrors\": [\n    \"http://localhost:5000\",\n    \"https://other\"\n  ],\n  \"insecure-registries\": [\n    \"10.0.0.1:5000\"\n  ]\n}\n",
			others: []string{"https://other"},
		},
		"there already":   {before: `{"insecure-registries":["a","10.0.0.1:5000"],"registry-mirrors":["http://localhost:5000"]}`},
		"no object":       {before: `[]`},
		"no JSON":         {before: `{"a": }`},
		"cut short":       {before: `{"a": 1`},
		"two documents":   {before: `{} {}`},
		"a key twice":     {before: `{"a":1,"a":2}`},
		"mirrors no list": {before: `{"registry-mirrors":"https://other"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "daemon.json")
			if c.before != "-" {
				if err := os.WriteFile(path, []byte(c.before), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			w, err := writeDaemon(path)
			refused := c.after == "" && name != "there already"
			if (err != nil) != refused || w.Changed != (c.after != "") {
				t.Fatalf("%+v, %v", w, err)
			}
			if !refused && !slices.Equal(w.OtherMirrors, append([]string{}, c.others...)) {
				t.Errorf("other mirrors: %q", w.OtherMirrors)
			}
			want := c.after
			if want == "" {
				want = c.before
			}
			if got := text(t, path); got != want {
				t.Errorf("%s", got)
			}
			files, _ := filepath.Glob(filepath.Join(dir, "*"))
			if c.before == "-" || !w.Changed {
				if len(files) != 1 || w.Backup != "" {
					t.Errorf("files: %q, backup %q", files, w.Backup)
				}
				return
			}
			if len(files) != 2 || text(t, w.Backup) != c.before {
				t.Errorf("files: %q, backup %q", files, w.Backup)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			if w, err := writeDaemon(path); err != nil || w.Changed {
				t.Errorf("again: %+v, %v", w, err)
			}
		})
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whatever else is in the file stays there.
func TestMergeKeepsTheRest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		had := rapid.MapOf(rapid.StringMatching(`[a-z<&-]{1,8}`), rapid.OneOf(
			rapid.Map(rapid.Int(), func(i int) any { return float64(i % 1000) }),
			rapid.Map(rapid.String(), func(s string) any { return s }),
			rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		)).Draw(r, "keys")
		before, err := json.Marshal(had)
		if err != nil {
			r.Fatal(err)
		}
		after, _, err := merge(before, keys)
		if err != nil {
			r.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(after, &got); err != nil {
			r.Fatal(err)
		}
		if len(got) != len(had)+2 {
			r.Errorf("%s\nbecomes\n%s", before, after)
		}
		for key, value := range had {
			if got[key] != value {
				r.Errorf("%q: %v becomes %v", key, value, got[key])
			}
		}
	})
}

func FuzzMerge(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1]}`, `{"registry-mirrors":null}`, `{"a":1,}`, "\xef\xbb\xbf{}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		after, _, err := merge(text, keys)
		if err != nil || after == nil {
			return
		}
		if again, _, err := merge(after, keys); err != nil || again != nil {
			t.Errorf("%q becomes %q, and then %q, %v", text, after, again, err)
		}
	})
}

func TestDockerKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		l    Listener
		want daemonKeys
	}{
		{Listener{Address: "localhost:5000", Loopback: true}, daemonKeys{Mirrors: []string{"http://localhost:5000"}}},
		{Listener{Address: "localhost:5000", Loopback: true, Registry: "ghcr.io"}, daemonKeys{Mirrors: []string{"http://localhost:5000/docker.io"}}},
		{Listener{Address: "localhost:5000", Loopback: true, Token: true}, daemonKeys{}},
		{Listener{Address: "10.0.0.1:5000"}, daemonKeys{Mirrors: []string{"http://10.0.0.1:5000"}, Insecure: []string{"10.0.0.1:5000"}}},
		{Listener{Address: "berth.internal:5000", TLS: true}, daemonKeys{Mirrors: []string{"https://berth.internal:5000"}}},
		{Listener{Address: "10.0.0.1:5000", Token: true}, daemonKeys{Insecure: []string{"10.0.0.1:5000"}}},
	} {
		got := dockerKeys(Options{Listeners: []Listener{c.l}})
		if !slices.Equal(got.Mirrors, c.want.Mirrors) || !slices.Equal(got.Insecure, c.want.Insecure) {
			t.Errorf("%+v: %+v", c.l, got)
		}
	}
}

func TestPlans(t *testing.T) {
	t.Parallel()
	open := Listener{Address: "localhost:5000", Loopback: true}
	token := Listener{Address: "localhost:5003", Loopback: true, Token: true, NameNeedsOrganisation: true}
	registries := []Registry{{"quay.io", "https://quay.io"}, {"docker.io", "https://registry-1.docker.io"}, {"reg.acme.com:5443", "https://reg.acme.com:5443"}}
	for _, client := range Clients() {
		p, err := For(client, Options{Listeners: []Listener{open, token}, Registries: registries})
		if err != nil || len(p.Files) == 0 || len(p.Notes) == 0 {
			t.Errorf("%s: %+v, %v", client, p, err)
		}
		for _, f := range p.Files {
			if strings.Contains(f.Content, "5003") {
				t.Errorf("%s: %s", client, f.Content)
			}
		}
	}
	if _, err := For("rkt", Options{}); err == nil {
		t.Error("there is a plan for rkt")
	}
	only := Options{Listeners: []Listener{token}, Registries: registries}
	for _, client := range []string{"containerd", "nerdctl", "podman", "buildkit"} {
		if p, err := For(client, only); err == nil {
			t.Errorf("%s: %+v", client, p)
		}
	}
	if p, err := For("docker", only); err != nil || len(p.Files) != 0 || !strings.Contains(strings.Join(p.Notes, "\n"), "no mirror is set") {
		t.Errorf("%+v, %v", p, err)
	}
	acme := Listener{Address: "localhost:5002", Loopback: true, Organisation: "acme"}
	if k := dockerKeys(Options{Listeners: []Listener{open, token, acme}, Organisation: "acme"}); !slices.Equal(k.Mirrors, []string{"http://localhost:5002"}) {
		t.Errorf("acme's mirror: %+v", k)
	}
	only.Organisation = "acme"
	p, err := For("podman", only)
	if err != nil || !strings.Contains(p.Files[0].Content, `location = "localhost:5003/acme/reg.acme.com_5443"`) {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestSetup_DockerAfterAnotherPort: what berth wrote for a port that the node has no more
// goes, with --undo and with the next --write; mirrors of others stay.
func TestSetup_DockerAfterAnotherPort(t *testing.T) {
	t.Parallel()
	const mine = "{\n  \"registry-mirrors\": [\n    \"http://localhost:9000\"\n  ]\n}\n"
	for name, c := range map[string]struct {
		was, is Listener
		write   bool
	}{
		"undone":                          {was: openPort, is: Listener{Address: "localhost:6000", Loopback: true}},
		"undone where callers log in now": {was: openPort, is: tokenPort},
		"undone, of another registry":     {was: Listener{Address: "localhost:5000", Loopback: true, Registry: "ghcr.io"}, is: Listener{Address: "localhost:6000", Loopback: true}},
		"undone in a network":             {was: Listener{Address: "10.0.0.1:5000"}, is: Listener{Address: "10.0.0.1:6000"}},
		"written again":                   {was: openPort, is: Listener{Address: "localhost:6000", Loopback: true}, write: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "daemon.json")
			put(t, path, mine, 0o644)
			// Nothing of berth's: not its mirror either.
			put(t, filepath.Join(filepath.Dir(path), "certs.d/other.example/hosts.toml"), "[host.\"http://localhost:9000\"]\n", 0o644)
			o := Options{Listeners: []Listener{c.was}, Registries: three, File: path}
			if _, err := plan(t, "docker", o).Write(now); err != nil {
				t.Fatal(err)
			}
			o.Listeners = []Listener{c.is}
			if c.write {
				if _, err := plan(t, "docker", o).Write(now.Add(1)); err != nil {
					t.Fatal(err)
				}
				if got := text(t, path); strings.Contains(got, ":5000") || !strings.Contains(got, ":6000") || !strings.Contains(got, ":9000") {
					t.Errorf("written again: %s", got)
				}
			}
			p := plan(t, "docker", o)
			if _, err := p.Undo(now); err != nil || text(t, path) != mine || !slices.Contains(p.Then, "systemctl reload docker") {
				t.Errorf("undone: %v, then %q, %s", err, p.Then, text(t, path))
			}
		})
	}
}
