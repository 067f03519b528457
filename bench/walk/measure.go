package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"berth/bench/internal/source"
)

// walk is what one kind of pull ran through.
type walk struct {
	name  string
	calls calls // of functions that were called for it: once at least
}

// row is the walk as a line of the table.
func (k *walk) row() string {
	files, packages, closures := map[string]bool{}, map[string]bool{}, 0
	for f := range k.calls {
		files[f.path], packages[f.pkg] = true, true
		if f.Closure {
			closures++
		}
	}
	return fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t", k.name, len(k.calls), closures, len(files), len(packages))
}

// list prints the functions in the order of their files, and of their lines in each.
func (k *walk) list(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "\n%s\n", k.name); err != nil {
		return err
	}
	all := slices.SortedFunc(maps.Keys(k.calls), func(a, b function) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.path, b.path),
			cmp.Compare(a.From.Line, b.From.Line), cmp.Compare(a.From.Column, b.From.Column))
	})
	in := ""
	for _, f := range all {
		if f.path != in {
			in = f.path
			fmt.Fprintf(w, "\n%s\n", in)
		}
		if _, err := fmt.Fprintf(w, "%6d %s", f.From.Line, f.Name); err != nil {
			return err
		}
		if n := k.calls[f]; n > 1 {
			fmt.Fprintf(w, " x%d", n)
		}
		fmt.Fprintln(w)
	}
	return nil
}

// result is everything that was measured.
type result struct {
	walks   []*walk
	program *walk // every function that the program is linked from
}

const (
	// most is how often an object is pulled in one run.
	most = 2
	// rest is how long the subject is left alone before the first pull and after each.
	rest = 200 * time.Millisecond
)

// kinds are what is pulled.
func kinds() []string { return []string{"manifest by tag", "blob 6 MiB"} }

// object is what is pulled of each kind.
func (r *registry) object(kind string) string {
	if kind == kinds()[0] {
		return "manifests/" + tag
	}
	return "blobs/" + r.layer
}

// measure pulls nothing, then once, then twice. What a cold pull runs through is what
// the second run has more of than the first, and a warm one what the third has more
// of than the second.
func measure(ctx context.Context, s subject, rounds int) (*result, error) {
	packages, err := source.Load(ctx, s.module)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "berth-walk-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	if err := s.build(ctx, program); err != nil {
		return nil, err
	}
	up, err := startRegistry(ctx)
	if err != nil {
		return nil, err
	}
	defer up.close()
	// times gives what each of rounds runs with n pulls of the object called.
	times := func(object string, n int) (all []calls, err error) {
		for range rounds {
			p, err := s.run(ctx, program, up.base, func(ctx context.Context, base string) error {
				return up.pull(ctx, base, object, n)
			})
			if err != nil {
				return nil, fmt.Errorf("%s, %d times: %w", object, n, err)
			}
			all = append(all, callsIn(packages, p))
		}
		return all, nil
	}
	none, err := times("", 0)
	if err != nil {
		return nil, err
	}
	r := &result{program: &walk{"in the program", none[0]}}
	for _, kind := range kinds() {
		once, err := times(up.object(kind), 1)
		if err != nil {
			return nil, err
		}
		twice, err := times(up.object(kind), 2)
		if err != nil {
			return nil, err
		}
		r.walks = append(r.walks, &walk{kind + ", cold", more(once, none)}, &walk{kind + ", warm", more(twice, once)})
	}
	return r, nil
}

// more is what the runs with something called more often than those without: the
// fewest calls less the most.
func more(with, without []calls) calls {
	c := calls{}
	for f := range with[0] {
		fewest, most := with[0][f], 0
		for _, one := range with {
			fewest = min(fewest, one[f])
		}
		for _, one := range without {
			most = max(most, one[f])
		}
		if fewest > most {
			c[f] = fewest - most
		}
	}
	return c
}

// pull gets the object n times from the subject at base, and checks that it is right
// and comes from here once, with the first. It takes the same time whatever n is, so
// that a clock calls as much with the pull as without, and what a pull does behind its
// answer is done before the next.
func (r *registry) pull(ctx context.Context, base, object string, n int) error {
	for i := range most {
		if i < n {
			if err := r.pullOnce(ctx, base, object, i == 0); err != nil {
				return fmt.Errorf("pull %d: %w", i+1, err)
			}
		}
		time.Sleep(rest)
	}
	return nil
}

func (r *registry) pullOnce(ctx context.Context, base, object string, cold bool) error {
	r.requests.Store(0)
	got, err := get(ctx, base+"/v2/team/app/"+object)
	if err != nil {
		return err
	}
	if digest(got) != digest(r.objects[object]) {
		return errors.New("what came is not what the registry has")
	}
	if asked := r.requests.Load(); asked > 0 != cold {
		return fmt.Errorf("the registry was asked %d times", asked)
	}
	return nil
}
