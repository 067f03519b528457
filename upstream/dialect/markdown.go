package dialect

import (
	"fmt"
	"strings"
)

// Markdown is the table as doc/registries.md has it.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| registry | `type` | sign-in | lists of tags | referrers | limits |\n|---|---|---|---|---|---|\n")
	all := append(Table(), Other())
	for _, d := range all {
		name := d.Name
		if d.Host != "" {
			name += " (`" + d.Host + "`)"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s | %s |\n", name, d.Type, d.SignIn, d.Tags, d.Referrers, d.Limits)
	}
	b.WriteString("\n| registry | in its own way | said in | shown by |\n|---|---|---|---|\n")
	for _, d := range all {
		for _, w := range d.Ways {
			fmt.Fprintf(&b, "| %s | %s | %s | `%s` |\n", d.Name, w.What, w.Source, w.Test)
		}
	}
	return b.String()
}
