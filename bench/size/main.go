// Command size prints how large the product is, package by package:
//
//	go run ./bench/size
//
// Code is lines without comments and blanks. The product is everything but tests,
// bench, and the packages that only tests use.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"berth/bench/internal/source"
)

func main() {
	if err := report(context.Background(), ".", os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "size:", err)
		os.Exit(1)
	}
}

// notProduct are the packages that no user runs, with all below them.
var notProduct = []string{"bench", "e2e", "internal/ocitest", "internal/nodetest", "fleet/memfleet"}

func product(p source.Package) bool {
	return !slices.ContainsFunc(notProduct, func(path string) bool {
		return p.Path == path || strings.HasPrefix(p.Path, path+"/")
	})
}

// size is what a package, or all of them, come to.
type size struct {
	name                             string
	files, code, functions, closures int
	lengths                          []int // of declared functions
	longest, largest                 int   // lines: of a function, of a file
	longestFunction, largestFile     string
}

func (s *size) add(p source.Package) {
	for _, f := range p.Files {
		s.files++
		s.code += f.Code
		if f.Lines > s.largest {
			s.largest, s.largestFile = f.Lines, f.Path
		}
		for _, one := range f.Functions {
			s.functions++
			if one.Closure { // its lines count in the function around it
				s.closures++
				continue
			}
			s.lengths = append(s.lengths, one.Lines())
			if one.Lines() > s.longest {
				s.longest, s.longestFunction = one.Lines(), fmt.Sprintf("%s:%d %s", f.Path, one.From.Line, one.Name)
			}
		}
	}
}

// median is of declared functions; 0 without any.
func (s *size) median() int {
	if len(s.lengths) == 0 {
		return 0
	}
	slices.Sort(s.lengths)
	return s.lengths[len(s.lengths)/2]
}

func report(ctx context.Context, dir string, w io.Writer) error {
	packages, err := source.Load(ctx, dir)
	if err != nil {
		return err
	}
	all := size{name: "product"}
	var rows []*size
	for _, p := range packages {
		if product(p) {
			one := &size{name: p.Path}
			one.add(p)
			all.add(p)
			rows = append(rows, one)
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "package\tfiles\tcode lines\tfunctions\tof them closures\tmedian\tlongest\tlargest file\t")
	for _, s := range append(rows, &all) {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", s.name, s.files, s.code, s.functions, s.closures, s.median(), s.longest, s.largest)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\nlongest function: %d lines, %s\nlargest file: %d lines, %s\n", all.longest, all.longestFunction, all.largest, all.largestFile)
	return err
}
