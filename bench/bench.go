package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// bench is a running benchmark: the registry, and the peers in front of it.
type bench struct {
	plan     *plan
	dir      string
	upstream *upstream
	peers    []*peer
	missing  []string
	warm     *warm   // what the warm rows ask for; nil until one does
	engine   *engine // the containerd of the rows of pulls; nil until one needs it
	images   int     // how many were made for them
}

// open starts the registry and finds the peers.
func open(ctx context.Context, p *plan, dir string) (*bench, error) {
	up, err := startUpstream(ctx, dir)
	if err != nil {
		return nil, err
	}
	b := &bench{plan: p, dir: dir, upstream: up}
	for _, r := range recipes(p) {
		if len(p.peers) > 0 && r.name != "before" && !slices.Contains(p.peers, r.name) {
			continue
		}
		one, err := newPeer(ctx, r, b)
		if err != nil {
			b.missing = append(b.missing, fmt.Sprintf("%s: %v", r.name, err))
			say("missing: %s: %v", r.name, err)
			continue
		}
		b.peers = append(b.peers, one)
	}
	return b, nil
}

func (b *bench) close() {
	for _, p := range b.peers {
		p.stop()
	}
	b.upstream.server.stop()
}

// measure runs every row, the peers in turn.
func (b *bench) measure(ctx context.Context) (*result, error) {
	all := newResult(ctx, b)
	for i := range b.plan.rows {
		r := &b.plan.rows[i]
		if r.needs != nil {
			if err := r.needs(ctx, b); err != nil {
				b.missing = append(b.missing, fmt.Sprintf("%s: %v", r.name, err))
				say("missing: %s: %v", r.name, err)
				continue
			}
		}
		if err := b.measureRow(ctx, r, all.add(r)); err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
	}
	all.Missing = b.missing
	if b.engine != nil {
		all.Machine["containerd"] = b.engine.version
	}
	return all, nil
}

func (b *bench) measureRow(ctx context.Context, r *row, into *rowResult) error {
	say("%s: %s", r.name, r.title)
	for run := range b.plan.runs {
		for i := range b.peers {
			// Another one begins each time: who is first after a rest pays for memory
			// that the machine has not used lately.
			p := b.peers[(run+i)%len(b.peers)]
			if !r.takes(p.name) {
				continue
			}
			f, err := b.once(ctx, r, p)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				// A peer that fails is a result: what it could not do is in the report.
				into.failed(p.name, err)
				say("  %d %-13s failed: %v", run+1, p.name, err)
				continue
			}
			into.put(p.name, f)
			say("  %d %-13s %s", run+1, p.name, f.line(r))
		}
	}
	return nil
}

// once measures one row for one peer, with the registry as the row wants it and
// the disk at rest.
func (b *bench) once(ctx context.Context, r *row, p *peer) (figures, error) {
	if err := b.upstream.set(ctx, r.upstream); err != nil {
		return nil, err
	}
	if r.prepare != nil {
		if err := r.prepare(ctx, b, p); err != nil {
			return nil, fmt.Errorf("preparing: %w", err)
		}
	}
	settle()
	return r.measure(ctx, b, p)
}

// say tells whoever waits how far it is.
func say(format string, args ...any) {
	fmt.Fprintln(os.Stderr, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}
