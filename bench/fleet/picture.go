package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The measures of the picture, in pixels: two panels beside each other.
const (
	panelWidth, panelHeight = 400, 240
	panelTop, panelLeft     = 60, 50
)

// panel shows one figure of each service against the number of nodes. Both grow by the
// same factor with each step.
type panel struct {
	title string
	of    func(outcome) float64
	unit  string
}

// draw is an SVG that can be read on light and on dark pages.
func draw(all []outcome) string {
	all = slices.DeleteFunc(slices.Clone(all), func(o outcome) bool { return o.Name != "all at once" && o.Bucket != "" })
	var lines []string
	for _, o := range all {
		if !slices.Contains(lines, o.Bucket) {
			lines = append(lines, o.Bucket)
		}
	}
	var b strings.Builder
	for i, bucket := range lines {
		name := bucket
		if name == "" {
			name = "without a fleet"
		}
		x := panelLeft + i*210
		fmt.Fprintf(&b, `<g class="line%d"><path d="M%d 18h22"/><circle cx="%d" cy="18" r="3"/></g><text x="%d" y="22">%s</text>`+"\n", i, x, x+11, x+30, html.EscapeString(name))
	}
	for i, p := range []panel{
		{"The last node has 1 GiB after (s)", func(o outcome) float64 { return o.Last }, "s"},
		{"Copies from the registry", func(o outcome) float64 { return o.Copies }, ""},
	} {
		p.draw(&b, i*(panelWidth+60), all, lines)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12" role="img" aria-labelledby="title">
<title id="title">How long a deployment to many nodes takes, and how often the registry sends the image, with three kinds of bucket and without a fleet</title>
<style>
  .back { fill: #ffffff } text { fill: #1f2328 } .axis { fill: none; stroke: #8c959f } .grid { fill: none; stroke: #d1d9e0; stroke-width: 0.5 }
  .line0 { --c: #8c959f } .line1 { --c: #1f6feb } .line2 { --c: #bf5700 } .line3 { --c: #8250df }
  g[class^=line] path, g[class^=line] polyline { fill: none; stroke: var(--c); stroke-width: 2 } g[class^=line] circle { fill: var(--c) }
  g.line0 path, g.line0 polyline { stroke-width: 5 }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d }
    .line1 { --c: #58a6ff } .line2 { --c: #f0883e } .line3 { --c: #bc8cff }
  }
</style>
<rect class="back" width="100%%" height="100%%"/>
%s</svg>
`, 2*(panelWidth+60), panelTop+panelHeight+50, b.String())
}

func (p panel) draw(b *strings.Builder, x int, all []outcome, lines []string) {
	least, most, widest := math.Inf(1), 0.0, 0.0
	for _, o := range all {
		least, most, widest = min(least, p.of(o)), max(most, p.of(o)), max(widest, float64(o.Nodes))
	}
	low, high := math.Floor(math.Log10(least)+1e-9), math.Ceil(math.Log10(most)-1e-9)
	high = max(high, low+1)
	at := func(o outcome) (float64, float64) {
		return (panelWidth - panelLeft) * (math.Log10(float64(o.Nodes)) - 1) / max(math.Log10(widest)-1, 1),
			panelHeight * (high - math.Log10(p.of(o))) / (high - low)
	}
	fmt.Fprintf(b, `<g transform="translate(%d,%d)"><text x="0" y="-14" font-weight="bold">%s</text>`+"\n", x+panelLeft, panelTop, p.title)
	for decade := low; decade <= high; decade++ {
		y := panelHeight * (high - decade) / (high - low)
		fmt.Fprintf(b, `<path class="grid" d="M0 %.1fH%d"/><text x="-6" y="%.1f" text-anchor="end">%g</text>`+"\n", y, panelWidth-panelLeft, y+4, math.Pow(10, decade))
	}
	for n := 10.0; n <= widest; n *= 10 {
		px, _ := at(outcome{Nodes: int(n), Last: 1, Copies: 1})
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f nodes</text>`+"\n", px, panelHeight+18, n)
	}
	fmt.Fprintf(b, `<path class="axis" d="M0 0V%dH%d"/>`+"\n", panelHeight, panelWidth-panelLeft)
	for i, bucket := range lines {
		p.line(b, i, bucket, all, at)
	}
	b.WriteString("</g>\n")
}

func (p panel) line(b *strings.Builder, i int, bucket string, all []outcome, at func(outcome) (float64, float64)) {
	fmt.Fprintf(b, `<g class="line%d">`, i)
	var points []string
	for _, o := range all {
		if o.Bucket == bucket {
			x, y := at(o)
			points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3"><title>%d nodes: %.3g %s</title></circle>`, x, y, o.Nodes, p.of(o), p.unit)
		}
	}
	fmt.Fprintf(b, `<polyline points="%s"/></g>`+"\n", strings.Join(points, " "))
}
