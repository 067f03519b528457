package main

import (
	"fmt"
	"math"
	"strings"
)

// curve is what one dimension's sizes cost.
type curve struct {
	dimension

	points []point
}

// growthTable has a row for each point.
func growthTable(all []curve) string {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "**%s**\n\n| | CPU us a warm pull | MiB | ready after ms |\n|---:|---:|---:|---:|\n", c.title)
		for _, p := range c.points {
			fmt.Fprintf(&b, "| %d | %.1f | %.0f | %.0f |\n", p.N, p.CPU, p.MiB, p.Starts)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// The measures of a growth plot, in pixels: two panels for each dimension.
const (
	panelWidth, panelHeight = 400, 130
	panelLeft, panelTop     = 45, 30
)

// growthPlot draws cost and memory of each dimension against its size, which grows by
// the same factor with each step to the right: what is logarithmic is a straight line.
func growthPlot(all []curve) string {
	var b strings.Builder
	for i, c := range all {
		y := i * (panelHeight + 50)
		c.panel(&b, 0, y, "CPU us a warm pull", func(p point) float64 { return p.CPU })
		c.panel(&b, panelWidth+60, y, "MiB", func(p point) float64 { return p.MiB })
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">
<rect width="100%%" height="100%%" fill="white"/>
%s</svg>
`, 2*(panelWidth+60), len(all)*(panelHeight+50)+10, b.String())
}

func (c curve) panel(b *strings.Builder, x, y int, title string, of func(point) float64) {
	top, widest := 0.0, math.Log10(float64(c.points[len(c.points)-1].N))
	for _, p := range c.points {
		top = max(top, of(p))
	}
	fmt.Fprintf(b, `<g transform="translate(%d,%d)"><text x="%d" y="16" font-weight="bold">%s: %s</text>`+"\n", x+panelLeft, y, 0, c.name, title)
	fmt.Fprintf(b, `<path d="M0 %d V%d H%d" fill="none" stroke="black"/>`+"\n", panelTop, panelHeight, panelWidth-panelLeft)
	var line []string
	for _, p := range c.points {
		px := (panelWidth - panelLeft - 30) * math.Log10(float64(p.N)) / max(widest, 1)
		py := panelHeight - (panelHeight-panelTop-10)*of(p)/top
		line = append(line, fmt.Sprintf("%.1f,%.1f", px, py))
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="#1f6feb"/><text x="%.1f" y="%.1f">%.3g</text><text x="%.1f" y="%d">%d</text>`+"\n",
			px, py, px+4, py-5, of(p), px, panelHeight+14, p.N)
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="#1f6feb"/></g>`+"\n", strings.Join(line, " "))
}
