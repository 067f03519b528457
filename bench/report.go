package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// markdown is the result as tables: medians, and in brackets the smallest and
// largest of the row's first figure.
func (r *result) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s, %d runs each, medians (smallest-largest).\n", r.When, r.Runs)
	for _, key := range slices.Sorted(maps.Keys(r.Machine)) {
		fmt.Fprintf(&b, "%s: %s. ", key, r.Machine[key])
	}
	b.WriteString("\n")
	for _, one := range r.Rows {
		one.markdown(&b)
	}
	if len(r.Missing) > 0 {
		b.WriteString("\nMissing:\n\n")
		for _, m := range r.Missing {
			fmt.Fprintf(&b, "- %s\n", m)
		}
	}
	return b.String()
}

func (r *rowResult) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "\n**%s** (`%s`)\n\n| |", r.Title, r.Name)
	for _, c := range r.row.columns {
		fmt.Fprintf(b, " %s |", c.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(r.row.columns)) + "\n")
	for _, p := range r.Peers {
		fmt.Fprintf(b, "| %s |", p.Name)
		for i, c := range r.row.columns {
			fmt.Fprintf(b, " %s |", p.cell(c, i == 0))
		}
		b.WriteString("\n")
	}
	for _, p := range r.Peers {
		for _, why := range p.Failed {
			fmt.Fprintf(b, "\n%s failed: %.200s\n", p.Name, strings.ReplaceAll(why, "\n", " "))
		}
	}
}

func (p *peerResult) cell(c column, first bool) string {
	f, ok := p.Figures[c.name]
	switch {
	case !ok:
		return "-"
	case first && f.Min != f.Max:
		return fmt.Sprintf("%s (%s-%s)", c.format(f.Median), c.format(f.Min), c.format(f.Max))
	}
	return c.format(f.Median)
}
