package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is everything that was measured, as it is saved.
type result struct {
	When    string
	Machine map[string]string
	Runs    int
	Missing []string
	Rows    []*rowResult
}

// rowResult is one row of it.
type rowResult struct {
	Name, Title string
	Columns     []string
	Peers       []*peerResult

	row *row
}

// peerResult is one peer in a row.
type peerResult struct {
	Name    string
	Figures map[string]spread
	Failed  []string `json:",omitempty"`

	samples map[string][]float64
}

// spread is what several runs gave.
type spread struct{ Median, Min, Max float64 }

func newResult(ctx context.Context, b *bench) *result {
	return &result{When: time.Now().UTC().Format(time.RFC3339), Machine: describe(ctx), Runs: b.plan.runs}
}

func (r *result) add(of *row) *rowResult {
	one := &rowResult{Name: of.name, Title: of.title, row: of}
	for _, c := range of.columns {
		one.Columns = append(one.Columns, c.name)
	}
	r.Rows = append(r.Rows, one)
	return one
}

func (r *rowResult) peer(name string) *peerResult {
	for _, p := range r.Peers {
		if p.Name == name {
			return p
		}
	}
	p := &peerResult{Name: name, Figures: map[string]spread{}, samples: map[string][]float64{}}
	r.Peers = append(r.Peers, p)
	return p
}

func (r *rowResult) failed(peer string, err error) {
	p := r.peer(peer)
	p.Failed = append(p.Failed, err.Error())
}

func (r *rowResult) put(peer string, f figures) {
	p := r.peer(peer)
	for name, v := range f {
		all := append(p.samples[name], v)
		p.samples[name] = all
		slices.Sort(all)
		p.Figures[name] = spread{Median: median(all), Min: all[0], Max: all[len(all)-1]}
	}
}

// median of what is sorted.
func median(all []float64) float64 {
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func (c column) format(v float64) string { return strconv.FormatFloat(v, 'f', c.digits, 64) }

// line is what one measurement gave.
func (f figures) line(r *row) string {
	var all []string
	for _, c := range r.columns {
		if v, ok := f[c.name]; ok {
			all = append(all, c.format(v)+" "+c.name)
		}
	}
	return strings.Join(all, "; ")
}

// save writes the result in all its forms.
func (r *result) save(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"results.json": string(data) + "\n",
		"results.md":   r.markdown(),
		"results.svg":  r.plot(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // G306: for everyone to read
			return fmt.Errorf("saving: %w", err)
		}
	}
	return nil
}
