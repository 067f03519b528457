package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	smallBlob = 10 << 10
	// smallFor is how long small requests are made for one figure.
	smallFor = 2 * time.Second
	// farAway is the time that a registry elsewhere takes to answer.
	farAway = 20 // ms
)

// row is one line of the table: the same work for each peer.
type row struct {
	name, title string
	// needs says what is missing for the row, whoever the peer. nil: nothing ever is.
	needs func(ctx context.Context, b *bench) error
	// columns are the figures, the first one being what the row is about.
	columns []column
	// without are the peers for which the row makes no sense.
	without  []string
	upstream conditions
	prepare  func(ctx context.Context, b *bench, p *peer) error // not measured
	measure  func(ctx context.Context, b *bench, p *peer) (figures, error)
}

// column is one figure of a row.
type column struct {
	name   string
	digits int
	less   bool // is better
}

// figures are by column.
type figures map[string]float64

func (r *row) takes(peer string) bool { return !slices.Contains(r.without, peer) }

// table is what is measured.
func table() []row {
	cached := []string{"direct"} // has no cache to be warm
	fetched := []string{"bare"}  // fetches nothing
	cost := []column{{"s", 2, true}, {"first byte ms, slowest client", 0, true}, {"copies from upstream", 2, true}, {"CPU s/GB delivered", 2, true}}
	return append([]row{
		{
			name: "blob-large", title: "warm 512 MiB blob, 16 clients", without: cached,
			columns: []column{{"MB/s", 0, false}, {"CPU s/GB", 3, true}},
			prepare: warmLarge, measure: largeBlob,
		}, {
			name: "manifest-tag", title: "warm manifest by tag, 32 clients, upstream 20 ms away", without: cached,
			columns: smallColumns(), upstream: conditions{LatencyMS: farAway},
			prepare: warmSmall, measure: small("manifests", func(w *warm) []string { return []string{warmTag} }),
		}, {
			name: "manifest-digest", title: "warm manifest by digest, 32 clients", without: cached,
			columns: smallColumns(), upstream: conditions{LatencyMS: farAway},
			prepare: warmSmall, measure: small("manifests", func(w *warm) []string { return []string{w.manifest} }),
		}, {
			name: "blob-small", title: "warm 10 KiB blobs, 32 clients", without: cached,
			columns: smallColumns(), upstream: conditions{LatencyMS: farAway},
			prepare: warmSmall, measure: small("blobs", func(w *warm) []string { return w.blobs }),
		}, {
			name: "cold-shared", title: "20 clients, one cold 256 MiB blob, 60 MB/s per upstream connection", without: fetched,
			columns: cost, upstream: conditions{PerConnection: 60e6},
			measure: cold(256<<20, 20, false),
		}, {
			name: "cold-slow", title: "cold 128 MiB blob, 16 MB/s per upstream connection", without: fetched,
			columns: cost, upstream: conditions{PerConnection: 16e6},
			measure: cold(128<<20, 1, false),
		}, {
			name: "cold-slow-tls", title: "the same over TLS, HTTP/2 offered", without: fetched,
			columns: cost, upstream: conditions{PerConnection: 16e6},
			measure: cold(128<<20, 1, true),
		}, {
			name: "cold-fast", title: "cold 512 MiB blob, one client, upstream as fast as it can", without: fetched,
			columns: append([]column{{"MB/s", 0, false}}, cost...),
			measure: cold(512<<20, 1, false),
		}, {
			name: "faults", title: "upstream cuts a blob once, answers 503 twice, 429 once: did the client get it (1: yes)", without: fetched,
			columns: []column{{"cut", 0, false}, {"503 twice", 0, false}, {"429 once", 0, false}},
			measure: faults,
		}, {
			name: "process", title: "start, idle and peak memory", without: cached,
			columns: []column{{"start ms", 0, true}, {"idle MiB", 0, true}, {"peak MiB", 0, true}},
			measure: process,
		},
	}, pulls()...)
}

func smallColumns() []column {
	return []column{{"requests/s", 0, false}, {"CPU us each", 1, true}, {"p50 us", 0, true}, {"p99 us", 0, true}, {"upstream requests", 0, true}}
}

func names(rows []row) []string {
	var all []string
	for i := range rows {
		all = append(all, rows[i].name)
	}
	return all
}

// choose is the rows with the names in only, a name being also that of all rows that
// begin with it and a dash; all rows if only is empty.
func choose(all []row, only []string) ([]row, error) {
	if len(only) == 0 {
		return all, nil
	}
	var chosen []row
	for _, name := range only {
		found := len(chosen)
		for i := range all {
			if all[i].name == name || strings.HasPrefix(all[i].name, name+"-") {
				chosen = append(chosen, all[i])
			}
		}
		if found == len(chosen) {
			return nil, fmt.Errorf("no row %q: there are %v", name, names(all))
		}
	}
	return chosen, nil
}
