package setup

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var ghcr = []setting{
	{"", "server", `"https://ghcr.io"`},
	{"", "capabilities", `["push"]`},
	{`host."http://[::1]:5000"`, "capabilities", `["pull", "resolve"]`},
	{`host."http://[::1]:5000".header`, "authorization", `"Basic eA=="`},
}

// TestTOML_Set: what was there stays there, berth's host comes first, and taking it out
// again gives the same bytes.
func TestTOML_Set(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{
		"nothing":             "",
		"no newline":          "skip_verify = true",
		"comments":            "# mine\n\n# and mine\n",
		"a server":            "server = \"https://other\" # mine\ncapabilities = [\"pull\"]\n",
		"other hosts":         "server = 'https://other'\n\n[host.\"https://mirror\"] # mine\n  capabilities = [\"pull\"]\n  ca = \"x\"\n",
		"a list on lines":     "client = [\n  [\"a\", \"b\"],\n  [\"c\"],\n]\n[host]\n",
		"berth's, by hand":    "server = \"http://[::1]:5000\"\n[host.'http://[::1]:5000']\n  capabilities = [\"pull\"]\n  skip_verify = true\n",
		"a header of its own": "[ host . \"http://[::1]:5000\" . header ]\nauthorization = \"x\"\nx-other = [\"y\"]\n",
	} {
		after, err := setTOML(before, ghcr, true)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, after)
			continue
		}
		again, err := setTOML(after, ghcr, true)
		if err != nil || again != after {
			t.Errorf("%s: a second time: %v\n%s\n%s", name, err, after, again)
		}
		if got := strings.TrimSuffix(takeTOML(after), "\n"); got != strings.TrimSuffix(before, "\n") {
			t.Errorf("%s: taken out it is\n%s", name, got)
		}
		if m, h := strings.Index(after, `"https://mirror"`), strings.Index(after, `[host."http://`); m >= 0 && m < h {
			t.Errorf("%s: another host comes first\n%s", name, after)
		}
	}
	for name, before := range map[string]string{
		"no TOML":             "server =\n",
		"a value on lines":    "capabilities = [\n\"pull\",\n]\n",
		"the table as a key":  "host.\"http://[::1]:5000\".capabilities = [\"pull\"]\n",
		"the table in a line": "host = {\"http://[::1]:5000\" = {capabilities = []}}\n",
	} {
		if after, err := setTOML(before, ghcr, true); err == nil {
			t.Errorf("%s became\n%s", name, after)
		}
	}
}

// TestTOML_TakeUndoesSet: whatever is in the file.
func TestTOML_TakeUndoesSet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		before := strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{
			"", "# x\n", "server = \"a\"\n", "[a]\n", "[host.\"h\"]\n", "b = 1\n", "[[c]]\n", "[a.b] # x\n", "]\n", "capabilities = []\n", "[host.\"http://[::1]:5000\"]\n", "\n",
		})).Draw(r, "lines"), "")
		after, err := setTOML(before, ghcr, rapid.Bool().Draw(r, "ahead"))
		if got := takeTOML(after); err == nil && got != before {
			r.Errorf("%q became %q, and then %q", before, after, got)
		}
	})
}

func FuzzTOML(f *testing.F) {
	f.Add("server = 1\n[host]\n")
	f.Add(tomlBegin + tomlWas + "x")
	f.Fuzz(func(t *testing.T, before string) {
		after, err := setTOML(before, ghcr, true)
		if err != nil {
			return
		}
		if again, err := setTOML(after, ghcr, true); err != nil || again != after {
			t.Errorf("%q becomes %q and then %q, %v", before, after, again, err)
		}
	})
}
