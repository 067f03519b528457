package main

import (
	"fmt"
	"html"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotWidth  = 900
	barLeft    = 120
	barRoom    = 620
	barHeight  = 16
	titleSpace = 34
)

// plot is an SVG with a group of bars for the first figure of each row, as long
// as they compare within it.
func (r *result) plot() string {
	var b strings.Builder
	y := 10
	for _, one := range r.Rows {
		y = one.plot(&b, y)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
%s</svg>
`, plotWidth, y+10, b.String())
}

func (r *rowResult) plot(b *strings.Builder, y int) int {
	c := r.row.columns[0]
	largest := 0.0
	for _, p := range r.Peers {
		largest = max(largest, p.Figures[c.name].Max)
	}
	if largest == 0 {
		return y
	}
	better := "more is better"
	if c.less {
		better = "less is better"
	}
	y += titleSpace
	fmt.Fprintf(b, `<text x="10" y="%d" font-weight="bold">%s: %s (%s)</text>`+"\n", y-8, html.EscapeString(r.Title), c.name, better)
	for _, p := range r.Peers {
		p.bar(b, y, c, barRoom/largest)
		y += barHeight + 4
	}
	return y
}

// bar is the median, with a line from the smallest to the largest.
func (p *peerResult) bar(b *strings.Builder, y int, c column, scale float64) {
	f := p.Figures[c.name]
	colour := "#9aa5b1"
	if p.Name == "berth" {
		colour = "#1f6feb"
	}
	middle := y + barHeight/2
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, barLeft-8, y+barHeight-4, p.Name)
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, barLeft, y, f.Median*scale, barHeight, colour)
	fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="black"/>`, barLeft+f.Min*scale, barLeft+f.Max*scale, middle, middle)
	fmt.Fprintf(b, `<text x="%.1f" y="%d">%s</text>`+"\n", barLeft+f.Max*scale+6, y+barHeight-4, p.cell(c, false))
}
