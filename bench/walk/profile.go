package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"berth/bench/internal/source"
)

// block is where one of the compiler's counters begins.
type block struct {
	file string // as in source.File.ImportPath
	at   source.Position
}

// profile is how often each block ran.
type profile map[block]int

// readCounters reads what a program that was built with coverage left in dir.
func readCounters(ctx context.Context, dir string) (profile, error) {
	path := filepath.Join(dir, "profile")
	c := exec.CommandContext(ctx, "go", "tool", "covdata", "textfmt", "-i="+dir, "-o="+path) //nolint:gosec // G204: a folder of ours
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("reading the counters: %w: %s", err, out)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the counters: %w", err)
	}
	defer f.Close()
	p, err := parseProfile(f)
	if err == nil && len(p) == 0 {
		err = errors.New("the program left no counters: it was killed, or built without coverage")
	}
	return p, err
}

// profileLine is FILE:LINE.COLUMN,LINE.COLUMN STATEMENTS COUNT.
var profileLine = regexp.MustCompile(`^(.+):(\d+)\.(\d+),\d+\.\d+ \d+ (\d+)$`)

// parseProfile reads a profile in the form of go test -coverprofile.
func parseProfile(r io.Reader) (profile, error) {
	p, lines := profile{}, bufio.NewScanner(r)
	for first := true; lines.Scan(); first = false {
		if first { // mode: atomic
			continue
		}
		m := profileLine.FindStringSubmatch(lines.Text())
		if m == nil {
			return nil, fmt.Errorf("not a line of a profile: %.200q", lines.Text())
		}
		var n [3]int
		for i := range n {
			var err error
			if n[i], err = strconv.Atoi(m[2+i]); err != nil {
				return nil, fmt.Errorf("not a line of a profile: %.200q: %w", lines.Text(), err)
			}
		}
		p[block{m[1], source.Position{Line: n[0], Column: n[1]}}] = n[2]
	}
	return p, lines.Err()
}

// function is one of the subject's, with the package it is in.
type function struct {
	source.Function

	pkg, path string
}

// calls is how often each of the subject's functions was called.
type calls map[function]int

// callsIn gives the calls in p of every function of packages that p knows: not of
// what the program does not link.
func callsIn(packages []source.Package, p profile) calls {
	byFile := map[string]map[source.Position]int{}
	for b, n := range p {
		if byFile[b.file] == nil {
			byFile[b.file] = map[source.Position]int{}
		}
		byFile[b.file][b.at] = n
	}
	c := calls{}
	for _, pkg := range packages {
		for _, f := range pkg.Files {
			for one, n := range entries(f.Functions, byFile[f.ImportPath]) {
				c[function{f.Functions[one], pkg.Path, f.Path}] = n
			}
		}
	}
	return c
}

// entries is the count of each function's first block, which runs once for each call.
func entries(functions []source.Function, blocks map[source.Position]int) map[int]int {
	first := map[int]source.Position{}
	for at := range blocks {
		in := innermost(functions, at)
		if before, ok := first[in]; in >= 0 && (!ok || at.Before(before)) {
			first[in] = at
		}
	}
	counts := map[int]int{}
	for in, at := range first {
		counts[in] = blocks[at]
	}
	return counts
}

// innermost is the last function that begins before at and ends after it, and -1
// without one.
func innermost(functions []source.Function, at source.Position) int {
	for i, f := range slices.Backward(functions) {
		if f.From.Before(at) && at.Before(f.To) {
			return i
		}
	}
	return -1
}
