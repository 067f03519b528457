package admin

import (
	"fmt"
	"strconv"
	"time"
)

// chart is one curve: bars over time, each 10 wide, in a field 100 high.
type chart struct {
	Title, Now, Span, Top string
	Width                 int
	Bars                  []bar
}

type bar struct {
	X         int
	Y, Height float64
	Label     string
}

// spans are how much time a chart shows, in how many bars: as much as the node
// has to tell of.
var spans = [...]struct {
	of   time.Duration
	bars int
	name string
}{
	{time.Hour, 60, "1 hour"},
	{6 * time.Hour, 72, "6 hours"},
	{24 * time.Hour, 96, "24 hours"},
}

func charts(s *Status, h *History) []chart {
	if h == nil {
		return nil
	}
	span := spans[0]
	for _, wider := range spans[1:] {
		if time.Duration(s.UptimeSeconds)*time.Second > span.of {
			span = wider
		}
	}
	slots := h.Slots(s.Now.Add(-span.of), s.Now.Add(time.Nanosecond), span.bars)
	ratio := chart{Title: "Answered without fetching", Now: ratioOf(s.Pulls.Hits, s.Pulls.Requests), Span: span.name, Top: "top: 100 % of requests", Width: 10 * span.bars}
	saved := chart{Title: "Bytes saved", Now: bytesOf(int64(s.Pulls.SavedBytes)), Span: span.name, Width: 10 * span.bars}
	var most uint64
	for _, slot := range slots {
		most = max(most, slot.SavedBytes)
	}
	if most > 0 {
		saved.Top = fmt.Sprintf("top: %s in %s", bytesOf(int64(most)), lasting(span.of/time.Duration(span.bars)))
	}
	for i, slot := range slots {
		when := slot.From.UTC().Format("15:04") + " UTC"
		if slot.Requests > 0 {
			ratio.add(i, float64(slot.Hits)/float64(slot.Requests), fmt.Sprintf("%s: %s of %d requests", when, ratioOf(slot.Hits, slot.Requests), slot.Requests))
		}
		if slot.SavedBytes > 0 {
			saved.add(i, float64(slot.SavedBytes)/float64(most), fmt.Sprintf("%s: %s", when, bytesOf(int64(slot.SavedBytes))))
		}
	}
	return []chart{ratio, saved}
}

// add puts a bar of a height from 0 to 1 at place i. One that is there shows.
func (c *chart) add(i int, height float64, label string) {
	h := max(min(height, 1)*100, 1)
	c.Bars = append(c.Bars, bar{X: 10*i + 1, Y: 100 - h, Height: h, Label: label})
}

func ratioOf(part, whole uint64) string {
	if whole == 0 {
		return "no requests"
	}
	return fmt.Sprintf("%d %%", part*100/whole)
}

// html draws it.
func (c *chart) html(d *document) {
	width := strconv.Itoa(c.Width)
	d.put(`  <figure class="card">
    <figcaption><h2>{}</h2><span>{}</span></figcaption>
    <svg viewBox="0 0 {} 100" preserveAspectRatio="none" role="img" aria-label="{}, {}: {}">
      <line x1="0" x2="{}" y1="0.5" y2="0.5"/><line x1="0" x2="{}" y1="50" y2="50"/><line x1="0" x2="{}" y1="99.5" y2="99.5"/>
`, c.Title, c.Now, width, c.Title, c.Span, c.Now, width, width, width)
	for _, b := range c.Bars {
		d.put("      <rect x=\"{}\" y=\"{}\" width=\"8\" height=\"{}\"><title>{}</title></rect>\n", strconv.Itoa(b.X), fmt.Sprint(b.Y), fmt.Sprint(b.Height), b.Label)
	}
	d.put("    </svg>\n    <p class=\"axis\"><span>{} ago</span><span>{}</span><span>now</span></p>\n  </figure>\n", c.Span, c.Top)
}
