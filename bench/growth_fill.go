package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func manyOrganisations(g *growing, n int) (string, error) {
	for i := range n - 1 { // acme is one
		if err := g.organisation(fmt.Sprintf("o%d", i), "upstream.example"); err != nil {
			return "", err
		}
	}
	return "", nil
}

func manyRegistries(g *growing, n int) (string, error) {
	var b strings.Builder
	b.WriteString("registries:\n" + g.registry("upstream.example"))
	for i := range n - 1 {
		b.WriteString(g.registry(fmt.Sprintf("r%d.example", i)))
	}
	return b.String(), nil
}

// manyObjects puts files into the cache folder of a node that has the manifest, and
// starts it anew.
func manyObjects(ctx context.Context, g *growing, n int) error {
	if err := g.warm(ctx, [][]byte{g.ask("upstream.example/team/app")}); err != nil {
		return err
	}
	g.at.stop()
	origins, err := filepath.Glob(filepath.Join(g.at.dir, "cache", "blobs", "*"))
	if err != nil || len(origins) != 1 {
		return errors.Join(err, fmt.Errorf("the cache folder has %v", origins))
	}
	for i := range n - 1 {
		name := fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, i)))
		leaf := filepath.Join(origins[0], "sha256", name[:2])
		if i < 10_000 { // by then each folder is there
			if err := os.MkdirAll(leaf, 0o700); err != nil {
				return err
			}
		}
		if err := write(filepath.Join(leaf, name), ""); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	_, err = g.start(ctx, dimension{}, n)
	return err
}

func manyRepositories(g *growing, n int) (asks [][]byte) {
	for i := range n {
		asks = append(asks, g.ask(fmt.Sprintf("upstream.example/team/app%d", i)))
	}
	return asks
}

// manyClients has n clients that have asked once, and stay.
func manyClients(ctx context.Context, g *growing, n int) error {
	for range n - growthClients {
		c, err := g.dial(ctx)
		if err != nil {
			return err
		}
		g.held = append(g.held, c)
		if err := answered(c, g.ask("upstream.example/team/app")); err != nil {
			return err
		}
	}
	return nil
}
