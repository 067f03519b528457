package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/hung"
)

// Each file of a folder with very many drop-ins is read once at the start, and of those
// that have changed none but they; and a change among twice as many costs no more than
// twice as much. No cheap way to keep a node from its work.
func TestDropIns_Many(t *testing.T) {
	cost := func(many int) float64 {
		n := newNode(t, tokenListener)
		read := map[string]int{}
		opts := testOptions()
		opts.Hung = &hung.Table{Fault: func(what string) { read[filepath.Base(what)]++ }}
		for i := range many {
			n.write(fmt.Sprintf("organisations.d/o%d.yaml", i), "grace: 1h\n")
		}
		c, err := Load(n.path("config.yaml"), opts)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "organisations", len(c.Organisations), many)
		equal(t, "looked at", len(read), many+2) // the main file, and the folder
		for file, times := range read {
			equal(t, file, times, 1)
		}
		clear(read)
		c = c.ReloadOrganisations("o1", "o2")
		equal(t, "looked at", fmt.Sprint(read), "map[o1.yaml:1 o2.yaml:1]")
		return testing.AllocsPerRun(5, func() { c.ReloadOrganisations("o1") })
	}
	if few, many := cost(500), cost(1000); many > 2.5*few {
		t.Errorf("%v allocations among 500, %v among 1000", few, many)
	}
}

// A list of a drop-in has a bound, whatever it is a list of, and says so.
func TestDropIns_AreBounded(t *testing.T) {
	entries := func(n int, format string) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, format, i)
		}
		return s.String()
	}
	for text, at := range map[string]string{
		"registries: {" + entries(1001, "r%d.example: {}, ") + "}\n":                                              "1:13: registries",
		"tokens: [" + entries(1001, "{name: n%d}, ") + "]\n":                                                      "1:9: tokens",
		"credentials: [" + entries(1001, "{name: n%d}, ") + "]\n":                                                 "1:14: credentials",
		"policy: {deny: [" + entries(1001, "ghcr.io/a%d, ") + "]}\n":                                              "1:16: policy.deny",
		"registries: {r.example: {aliases: [" + entries(1001, "a%d.example, ") + "]}}\n":                          "1:35: registries.r.example.aliases",
		"credentials: [{name: ci, registry: ghcr.io, repositories: [" + entries(1001, "a%d, ") + "]}]\ngrace: 1h": "1:59: credentials[0].repositories",
	} {
		n := newNode(t, tokenListener)
		n.write("organisations.d/acme.yaml", text)
		c := n.load()
		err := c.Broken["acme"]
		if err == nil || !strings.Contains(err.Error(), "organisations.d/acme.yaml:"+at+": 1001 entries are too many: an organisation's file may have 1000 here: remove those that are not used") {
			t.Errorf("%s: %v", at, err)
		}
	}
	n := newNode(t, tokenListener)
	n.write("organisations.d/acme.yaml", "registries: {"+entries(501, "r%d.example: {mirrors: [{url: https://m.example}]}, ")+"}\n")
	if err := n.load().Broken["acme"]; err == nil || !strings.Contains(err.Error(), "1002 registries and mirrors are too many") {
		t.Errorf("mirrors: %v", err)
	}
	n.write("organisations.d/acme.yaml", "registries: {"+entries(1000, "r%d.example: {}, ")+"}\n")
	if err := n.load().Broken["acme"]; err != nil {
		t.Errorf("as many as there may be: %v", err)
	}
}
