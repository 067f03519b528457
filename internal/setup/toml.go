package setup

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// What is berth's in somebody's TOML file stands between two comments, and what it
// took the place of is a comment beside it. So it can be taken out again to the byte,
// also when the rest of the file has changed since.
const (
	tomlBegin = "# berth setup: begin\n"
	tomlEnd   = "# berth setup: end\n"
	tomlWas   = "#berth# "
)

// setting is one key of a TOML file, below a table ("" is the top).
type setting struct{ table, key, value string }

// setTOML puts settings into text, which keeps everything else. What it has of berth's
// already is taken out first. New tables come before all others if ahead: among the hosts
// of a hosts.toml order counts. Else they come last, where their parents are known.
func setTOML(text string, settings []setting, ahead bool) (string, error) {
	if !pairedTOML(text) {
		return "", errors.New("its lines \"berth setup: begin\" and \"end\" are not in pairs: take those out that are alone")
	}
	text = takeTOML(text)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if err := checkTOML(text, nil); err != nil {
		return text, err
	}
	lines := slices.Collect(strings.Lines(text))
	var tables []string
	for _, s := range settings {
		if !slices.Contains(tables, s.table) {
			tables = append(tables, s.table)
		}
	}
	first := slices.IndexFunc(lines, func(l string) bool { return header(l) != "" })
	if first < 0 {
		first = len(lines)
	}
	var added strings.Builder // tables that are not there
	for _, table := range tables {
		var block strings.Builder
		for _, s := range settings {
			if s.table == table {
				fmt.Fprintf(&block, "%s = %s\n", s.key, s.value)
			}
		}
		at := 0
		if table != "" {
			at = slices.IndexFunc(lines, func(l string) bool { return header(l) == normal(table) }) + 1
		}
		if table != "" && at == 0 {
			fmt.Fprintf(&added, "%s[%s]\n%s%s", tomlBegin, table, block.String(), tomlEnd)
			continue
		}
		displace(lines[at:], settings, table)
		lines = slices.Insert(lines, at, tomlBegin+block.String()+tomlEnd)
		if at <= first {
			first++
		}
	}
	if !ahead {
		first = len(lines)
	}
	lines = slices.Insert(lines, first, added.String())
	text = strings.Join(lines, "")
	return text, checkTOML(text, settings)
}

// displace makes comments of the keys that settings are for, up to the next table.
func displace(lines []string, settings []setting, table string) {
	for i, l := range lines {
		if header(l) != "" {
			return
		}
		key, _, ok := strings.Cut(l, "=")
		key = strings.Trim(strings.TrimSpace(key), `"'`)
		if ok && slices.ContainsFunc(settings, func(s setting) bool { return s.table == table && s.key == key }) {
			lines[i] = tomlWas + l
		}
	}
}

// takeTOML is text without what setTOML put there.
func takeTOML(text string) string {
	var b strings.Builder
	ours := false
	for l := range strings.Lines(text) {
		switch {
		case l == tomlBegin:
			ours = true
		case ours:
			ours = l != tomlEnd
		default:
			b.WriteString(strings.TrimPrefix(l, tomlWas))
		}
	}
	return b.String()
}

// pairedTOML says whether each beginning of ours has its end: what follows one that has
// none would be taken for ours.
func pairedTOML(text string) bool {
	ours := false
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n") + "\n" // the last one may have none
		was, isWas := strings.CutPrefix(l, tomlWas)
		if l == tomlBegin && ours || l == tomlEnd && !ours || isWas && (strings.HasPrefix(was, tomlWas) || was == tomlBegin || was == tomlEnd) {
			return false
		}
		ours = l == tomlBegin || ours && l != tomlEnd
	}
	return !ours
}

// checkTOML says whether text means what was meant by it: the file may have had the
// same table in another form, or a value on several lines.
func checkTOML(text string, settings []setting) error {
	var doc map[string]any
	if err := toml.Unmarshal([]byte(text), &doc); err != nil {
		return errors.New("it is no TOML, or cannot be added to: " + oneLine(err))
	}
	for _, s := range settings {
		var want map[string]any
		if err := toml.Unmarshal(fmt.Appendf(nil, "v = %s", s.value), &want); err != nil {
			return fmt.Errorf("%s: %w", s.key, err)
		}
		got, _ := lookUp(doc, s.table)
		if fmt.Sprint(got[s.key]) != fmt.Sprint(want["v"]) {
			return fmt.Errorf("%s in [%s] is something else after it was added", s.key, s.table)
		}
	}
	return nil
}

// lookUp finds a table by its header.
func lookUp(doc map[string]any, table string) (map[string]any, bool) {
	if table == "" {
		return doc, true
	}
	for _, part := range parts(table) {
		below, ok := doc[part].(map[string]any)
		if !ok {
			return nil, false
		}
		doc = below
	}
	return doc, true
}

// parts are the names in a table's header.
func parts(table string) (all []string) {
	for len(table) > 0 {
		table = strings.TrimLeft(table, ". \t")
		end := strings.IndexAny(table, ". \t")
		if table != "" && (table[0] == '"' || table[0] == '\'') {
			if end = strings.IndexByte(table[1:], table[0]); end >= 0 {
				all, table = append(all, table[1:end+1]), table[end+2:]
				continue
			}
		}
		if end < 0 {
			end = len(table)
		}
		if end > 0 {
			all = append(all, table[:end])
		}
		table = table[end:]
	}
	return all
}

// header is the table that a line begins, in its normal form; "" if it begins none.
func header(line string) string {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "[") {
		return ""
	}
	name := strings.TrimLeft(line, "[")
	end, quote := -1, byte(0)
	for i := 0; i < len(name) && end < 0; i++ {
		switch c := name[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == ',':
			return "" // a line of a list
		case c == ']':
			end = i
		}
	}
	if end < 0 {
		return ""
	}
	if rest := strings.TrimSpace(strings.TrimLeft(name[end:], "]")); rest != "" && rest[0] != '#' {
		return ""
	}
	return normal(name[:end])
}

func normal(table string) string { return strings.Join(parts(table), "\x00") }

// oneLine keeps a parser's error from quoting the file over several lines.
func oneLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// quoted is s as TOML writes it.
func quoted(s string) string { return fmt.Sprintf("%q", s) }

// list is a list of strings as TOML writes it.
func list(all ...string) string {
	each := make([]string, len(all))
	for i, s := range all {
		each[i] = quoted(s)
	}
	return "[" + strings.Join(each, ", ") + "]"
}
