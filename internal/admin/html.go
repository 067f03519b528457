package admin

import (
	"html"
	"strconv"
	"strings"
)

// html/template would be shorter, and safe as well. It looks methods up by their names,
// so that the linker keeps every method of every type in the program: it was 14 MB of 35.

// literal is markup of ours. Constants become one by themselves, and nothing else does,
// so that what came from elsewhere can only be text.
type literal string

// document is a page as it is written.
type document struct{ strings.Builder }

// put writes markup, with the next of texts in the place of each {}.
func (d *document) put(markup literal, texts ...string) {
	for _, text := range texts {
		before, after, _ := strings.Cut(string(markup), "{}")
		d.WriteString(before)
		d.WriteString(html.EscapeString(text))
		markup = literal(after)
	}
	d.WriteString(string(markup))
}

// when writes markup where it is so.
func (d *document) when(so bool, markup literal, texts ...string) {
	if so {
		d.put(markup, texts...)
	}
}

// bar writes how much of something there is, in percent.
func (d *document) bar(mood string, percent int) {
	d.put(`<svg class="bar`)
	d.when(mood != "", ` {}`, mood)
	d.put(`" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="all" width="100" height="4"/><rect width="{}" height="4"/></svg>`, strconv.Itoa(percent))
}

// html is the page.
func (v *view) html() string {
	var d document
	v.head(&d)
	v.numbers(&d)
	v.problemsCard(&d)
	d.put("<section class=\"charts\">\n")
	for i := range v.Charts {
		v.Charts[i].html(&d)
	}
	d.put("</section>\n\n<div class=\"cards\">\n")
	v.accountsCard(&d)
	v.failuresCard(&d)
	v.fillsCard(&d)
	v.cacheCard(&d)
	v.clientsCard(&d)
	v.configurationCard(&d)
	d.put("</div>\n</main>\n</div>\n<footer><a href=\"/metrics\">metrics</a></footer>\n</body>\n</html>\n")
	return d.String()
}

func (v *view) head(d *document) {
	health := "good"
	switch {
	case v.Bad:
		health = "bad"
	case v.Odd:
		health = "odd"
	}
	d.put(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>`)
	d.when(v.Bad, "! ")
	d.put(`berth: {}</title>
<link rel="icon" href="/page.svg" type="image/svg+xml">
<link rel="stylesheet" href="/page.css">
<script src="/page.js" defer></script>
<noscript><meta http-equiv="refresh" content="30"></noscript>
</head>
<body>
<p id="stale" role="alert" hidden>The node does not answer. This is how it was at {}.</p>
<div id="page">
<header>
  <h1><img src="/page.svg" alt="" width="28" height="28">berth</h1>
  <p class="health {}">{}</p>
  <p class="about">{} · up {} · {}</p>
</header>
<main>
`, v.Headline, v.At, health, v.Headline, v.Version, v.Uptime, v.At)
}

func (v *view) numbers(d *document) {
	d.put(`<section class="numbers" aria-label="Since the start">
  <div><b>{}</b><span>pulls served</span></div>
  <div><b>{}</b><span>pulls charged to Docker Hub</span></div>
  <div><b>{}</b><span>saved, {} fetched</span></div>
  <div`, v.Served, v.Charged, v.Saved, v.Fetched)
	d.when(v.FailedAny, ` class="bad"`)
	d.put("><b>{}</b><span>failed pulls</span></div>\n</section>\n\n", v.Failed)
}

func (v *view) problemsCard(d *document) {
	if len(v.Problems) == 0 {
		return
	}
	d.put("<section class=\"card problems\">\n  <h2>Needs attention</h2>\n  <ul>")
	for _, p := range v.Problems {
		mood := "odd"
		if p.Bad {
			mood = "bad"
		}
		d.put("\n    <li class=\"{}\">{}", mood, p.Text)
		d.when(p.Detail != "", "<pre>{}</pre>", p.Detail)
		d.put("</li>")
	}
	d.when(v.MoreProblems > 0, "\n    <li class=\"odd\">and {} more: see <code>berth status</code></li>", strconv.Itoa(v.MoreProblems))
	d.put("\n  </ul>\n</section>\n\n")
}

func (v *view) accountsCard(d *document) {
	if len(v.Accounts) == 0 {
		return
	}
	d.put(`<section class="card wide">
  <h2>Accounts</h2>
  <div class="scroll"><table>
    <thead><tr><th>organisation<th>registry<th>account<th>state<th class="number">pulls left</tr></thead>
    <tbody>`)
	for i := range v.Accounts {
		a := &v.Accounts[i]
		d.put("\n    <tr><td>{}<td>{}<td>{}<td><span class=\"dot {}\"></span>{}<td class=\"number\">", a.Organisation, a.Registry, a.Name, a.Mood, a.State)
		d.put("{}", a.Left)
		if a.Limited {
			d.bar(a.LeftMood, a.LeftPercent)
		}
		d.when(a.Left == "", `<span class="none">not told</span>`)
		d.put("</tr>")
	}
	d.put("\n    </tbody>\n  </table></div>")
	d.when(v.MoreAccounts > 0, "\n  <p class=\"none\">and {} more: see <code>berth status</code></p>", strconv.Itoa(v.MoreAccounts))
	d.put("\n</section>\n\n")
}

func (v *view) failuresCard(d *document) {
	if len(v.Failures) == 0 {
		return
	}
	what := "registry"
	if v.Full {
		what = "image"
	}
	d.put(`<section class="card wide">
  <h2>Last failures</h2>
  <div class="scroll"><table>
    <thead><tr><th>last<th>organisation<th>{}<th>reason<th class="number">times</tr></thead>
    <tbody>`, what)
	for i := range v.Failures {
		f := &v.Failures[i]
		d.put("\n    <tr><td class=\"number\">{}<td>{}<td>{}<td><span class=\"dot {}\"></span>{}<td class=\"number\">{}</tr>",
			f.Ago, f.Organisation, f.What, f.Mood, f.Class, strconv.FormatUint(f.Count, 10))
		d.when(f.Message != "", "\n    <tr class=\"message\"><td><td colspan=\"4\">{}</tr>", f.Message)
	}
	d.put("\n    </tbody>\n  </table></div>")
	d.when(!v.Full, "\n  <p class=\"none\">Images and messages: <code>berth failures</code></p>")
	d.put("\n</section>\n\n")
}

func (v *view) fillsCard(d *document) {
	if len(v.Fills) == 0 {
		return
	}
	d.put("<section class=\"card\">\n  <h2>Being fetched</h2>\n  <ul class=\"rows\">")
	for _, f := range v.Fills {
		d.put("\n    <li><span>{}</span><span class=\"number\">{}</span>\n      ", f.What, f.Size)
		d.bar("", f.Percent)
		d.put("</li>")
	}
	d.put("\n  </ul>")
	d.when(v.MoreFills > 0, "\n  <p class=\"none\">and {} more</p>", strconv.Itoa(v.MoreFills))
	d.put("\n</section>\n\n")
}

func (v *view) cacheCard(d *document) {
	d.put("<section class=\"card\">\n  <h2>Cache</h2>\n  <ul class=\"rows\">\n    <li><span>images</span><span class=\"number\">{}</span>", v.CacheSize)
	if v.CacheLimited {
		d.put("\n      ")
		d.bar("", v.CachePercent)
	}
	d.put("</li>")
	if v.Disk != "" {
		d.put("\n    <li><span>disk</span><span class=\"number\">{}</span>\n      ", v.Disk)
		d.bar(v.DiskMood, v.DiskPercent)
		d.put("</li>")
	}
	d.when(v.Folder != "", "\n    <li><span class=\"none\">{}</span></li>", v.Folder)
	d.put("\n  </ul>\n</section>\n\n")
}

func (v *view) clientsCard(d *document) {
	d.put("<section class=\"card\">\n  <h2>Clients</h2>\n  ")
	if len(v.Clients) == 0 {
		d.put("<p class=\"none\">Nobody has pulled since the start. <code>berth setup docker</code> says how to begin.</p>\n</section>\n\n")
		return
	}
	d.put(`<ul class="rows">`)
	for _, c := range v.Clients {
		d.put("\n    <li><span>")
		d.when(c.Mood != "", `<span class="dot {}"></span>`, c.Mood)
		d.put("{}</span><span class=\"number\">{}</span></li>", c.Client, c.Pulled)
	}
	d.put("\n  </ul>\n</section>\n\n")
}

func (v *view) configurationCard(d *document) {
	d.put("<section class=\"card\">\n  <h2>Listeners and configuration</h2>\n  <ul class=\"rows\">")
	for i := range v.Listeners {
		l := &v.Listeners[i]
		d.put("\n    <li><span>{}", l.Address)
		d.when(l.TLS, " <small>TLS</small>")
		d.put("</span><span class=\"number\">{}</span></li>", l.Who)
	}
	d.put("\n    <li><span>{}</span><span class=\"number\">{}</span></li>\n    <li><span>organisations</span><span class=\"number\">{}</span></li>", v.Main, v.Applied, v.Organisations)
	d.when(v.Path != "", "\n    <li><span class=\"none\">{}</span></li>", v.Path)
	d.put("\n  </ul>\n</section>\n")
}
