package admin

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How much of what is on the page.
const (
	maxProblems = 12
	maxAccounts = 40
	maxFills    = 10
)

// view is the page's data, as it is written there.
type view struct {
	Full, Bad, Odd                    bool
	Headline, Version, Uptime, At     string
	Served, Charged, Saved, Fetched   string
	Failed                            string
	FailedAny                         bool
	Problems                          []Problem
	MoreProblems                      int
	Charts                            []chart
	Accounts                          []accountRow
	MoreAccounts                      int
	Failures                          []failureRow
	Fills                             []fillRow
	MoreFills                         int
	CacheSize, Disk, DiskMood, Folder string
	CacheLimited                      bool
	CachePercent, DiskPercent         int
	Clients                           []clientRow
	Listeners                         []listenerRow
	Main, Applied, Path               string
	Organisations                     string
}

type (
	accountRow struct {
		Account

		State, Mood, Left, LeftMood string
		Limited                     bool
		LeftPercent                 int
	}
	failureRow struct {
		Failure

		Ago, What, Mood string
	}
	fillRow struct {
		What, Size string
		Percent    int
	}
	clientRow   struct{ Client, Pulled, Mood string }
	listenerRow struct {
		Listener

		Who string
	}
)

func newView(s *Status, h *History, full bool) *view {
	v := &view{
		Full: full, Version: s.Version, Uptime: lasting(time.Duration(s.UptimeSeconds) * time.Second),
		At:     s.Now.UTC().Format("2006-01-02 15:04:05 UTC"),
		Served: grouped(s.Pulls.Served), Charged: grouped(s.Pulls.ChargedDockerHub), Failed: grouped(s.Pulls.Failed), FailedAny: len(s.recent()) > 0,
		Saved: bytesOf(int64(s.Pulls.SavedBytes)), Fetched: bytesOf(int64(s.Pulls.FetchedBytes)),
		Charts: charts(s, h), Folder: s.Cache.Directory,
	}
	v.problems(s)
	v.accounts(s)
	v.failures(s)
	v.fills(s)
	v.cache(&s.Cache)
	v.configuration(&s.Configuration)
	v.clients(s)
	for _, l := range s.Listeners {
		v.Listeners = append(v.Listeners, listenerRow{l, whoAt(l)})
	}
	return v
}

func (v *view) problems(s *Status) {
	all := s.Problems()
	v.Bad = slices.ContainsFunc(all, func(p Problem) bool { return p.Bad })
	switch recent := len(s.recent()); {
	case len(all) > 0:
		v.Headline, v.Odd = plural(len(all), "thing")+" to look at", true
	case recent > 0:
		v.Headline, v.Odd = "pulls failed in the last hour", true
	default:
		v.Headline = "all well"
	}
	if v.MoreProblems = max(len(all)-maxProblems, 0); v.MoreProblems > 0 {
		all = all[:maxProblems]
	}
	if !v.Full {
		all = mapped(all, func(p Problem) Problem { return Problem{Bad: p.Bad, Text: p.Text} })
	}
	v.Problems = all
}

// accounts shows those first that need somebody.
func (v *view) accounts(s *Status) {
	for _, a := range s.Accounts {
		row := accountRow{Account: a, State: a.State.Text(), Mood: "good"}
		if a.Organisation == Nobody {
			row.Organisation = "this node"
		}
		if a.Name == Nobody {
			row.Name = "none: its address"
		}
		switch a.State {
		case AccountRefused, AccountResting, AccountLost:
			row.Mood = "bad"
		case AccountUnused:
			row.Mood, row.State = "", "not used yet"
		case AccountRenewed:
			row.Mood = ""
		}
		if a.CoolDownUntil != nil {
			row.State += " until " + a.CoolDownUntil.UTC().Format("15:04:05")
		}
		if a.RateLeft != nil {
			row.Left = strconv.FormatInt(*a.RateLeft, 10)
		}
		if a.RateLeft != nil && a.RateLimit != nil && *a.RateLimit > 0 {
			row.Limited, row.LeftPercent = true, percent(*a.RateLeft, *a.RateLimit)
			row.Left += " of " + strconv.FormatInt(*a.RateLimit, 10)
			if a.low() {
				row.LeftMood = "bad"
			}
		}
		v.Accounts = append(v.Accounts, row)
	}
	order := map[string]int{"bad": 0, "good": 1, "": 2}
	slices.SortStableFunc(v.Accounts, func(a, b accountRow) int { return cmp.Compare(order[a.Mood], order[b.Mood]) })
	if v.MoreAccounts = max(len(v.Accounts)-maxAccounts, 0); v.MoreAccounts > 0 {
		v.Accounts = v.Accounts[:maxAccounts]
	}
}

func (v *view) failures(s *Status) {
	for _, f := range s.Failures {
		row := failureRow{Failure: f, Ago: lasting(s.Now.Sub(f.Last)) + " ago", What: f.Image(), Mood: "odd"}
		if row.What == "" {
			row.What = cmp.Or(f.Registry, Nobody)
		}
		if f.Owner == "operator" {
			row.Mood = "bad"
		}
		v.Failures = append(v.Failures, row)
	}
}

// silent is how long a client is unusually quiet while another one pulls each day.
const silent = 3 * 24 * time.Hour

// clients are those that have pulled here, and those that went around.
func (v *view) clients(s *Status) {
	for _, b := range s.Bypasses {
		v.Clients = append(v.Clients, clientRow{b.Client, "went around for " + b.Registry + ", " + lasting(s.Now.Sub(b.Last)) + " ago", "bad"})
	}
	others := slices.ContainsFunc(s.Clients, func(c ClientPull) bool { return s.Now.Sub(c.Last) < 24*time.Hour })
	for _, c := range s.Clients {
		row := clientRow{Client: c.Client, Pulled: "last pull " + lasting(s.Now.Sub(c.Last)) + " ago"}
		if others && s.Now.Sub(c.Last) > silent {
			row.Mood = "odd"
		}
		v.Clients = append(v.Clients, row)
	}
}

func (v *view) fills(s *Status) {
	for _, f := range s.Fills {
		row := fillRow{What: f.Registry, Size: bytesOf(f.Bytes)}
		if f.Repository != "" {
			row.What += "/" + f.Repository
		}
		if f.Size > 0 {
			row.Size += " of " + bytesOf(f.Size)
			row.Percent = percent(f.Bytes, f.Size)
		}
		v.Fills = append(v.Fills, row)
	}
	if v.MoreFills = max(len(v.Fills)-maxFills, 0); v.MoreFills > 0 {
		v.Fills = v.Fills[:maxFills]
	}
}

func (v *view) cache(c *Cache) {
	v.CacheSize = bytesOf(c.Bytes)
	if c.LimitBytes > 0 {
		v.CacheLimited, v.CachePercent = true, percent(c.Bytes, c.LimitBytes)
		v.CacheSize += " of " + bytesOf(c.LimitBytes)
	}
	if c.DiskBytes > 0 {
		v.Disk, v.DiskPercent = bytesOf(c.FreeBytes)+" free", percent(c.DiskBytes-c.FreeBytes, c.DiskBytes)
	}
	switch full := c.PastDisk != nil && (c.PastDisk.Reason == "bytes" || c.PastDisk.Reason == "inodes"); {
	case c.Unwritable:
		v.Disk, v.DiskMood = "cannot be written", "bad"
	case full && c.PastDisk.Reason == "inodes":
		v.Disk, v.DiskMood = v.Disk+", but no inodes", "odd"
	case full, v.DiskPercent >= 95:
		v.DiskMood = "odd"
	}
}

func (v *view) configuration(c *Configuration) {
	v.Main, v.Applied = "no file: defaults", "since "+c.Applied.UTC().Format("2006-01-02 15:04 UTC")
	if c.Main != nil {
		v.Main, v.Path = "in force", c.Main.Path
		if c.Main.State != Applied {
			v.Main = "bad file: the one before stays"
		}
	}
	bad := 0
	for _, f := range c.Organisations {
		if f.State == Failed || f.State == Kept {
			bad++
		}
	}
	v.Organisations = strconv.Itoa(len(c.Organisations))
	if bad > 0 {
		v.Organisations += fmt.Sprintf(", %d with a bad file", bad)
	}
}

func whoAt(l Listener) string {
	switch {
	case l.Callers == "token":
		return "callers log in"
	case l.Organisation != "":
		return "everyone is " + l.Organisation
	}
	return "public images only"
}

func percent(part, whole int64) int {
	if whole <= 0 {
		return 0
	}
	return int(min(max(part, 0)*100/whole, 100))
}

// lasting is how long something takes, in one unit, or two where one says little.
func lasting(d time.Duration) string {
	minutes := int(d / time.Minute)
	switch {
	case d >= 48*time.Hour:
		return plural(int(d/(24*time.Hour)), "day")
	case d >= 10*time.Hour || d >= time.Hour && minutes%60 == 0:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	case d >= time.Hour:
		return fmt.Sprintf("%d h %d min", minutes/60, minutes%60)
	case minutes > 0:
		return strconv.Itoa(minutes) + " min"
	}
	return strconv.Itoa(int(max(d, 0)/time.Second)) + " s"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// grouped writes a number with thin gaps between thousands.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, r := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteRune('\u202f')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// bytesOf writes a number of bytes.
func bytesOf(n int64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	digits := 1
	if unit == 0 || value >= 100 {
		digits = 0
	}
	return strconv.FormatFloat(value, 'f', digits, 64) + " " + units[unit]
}
