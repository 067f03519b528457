package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// recipe is how a peer is had and started.
type recipe struct {
	name string
	// find gives its program. The error says why there is none.
	find func(ctx context.Context, b *bench) (string, error)
	// command starts it at address, with its files in dir, in front of origin.
	command func(ctx context.Context, program, dir, address string, origin origin) (*exec.Cmd, error)
	// prefix is what comes between /v2/ and the repository.
	prefix string
}

// origin is the registry as a peer reaches it.
type origin struct {
	url    string
	caFile string // empty: plain HTTP
}

func recipes(p *plan) []recipe {
	all := []recipe{berthRecipe("berth", p.berth), distributionRecipe(), zotRecipe(), nginxRecipe(), bareRecipe(), {name: "direct"}}
	if p.before != "" {
		all = append(all, berthRecipe("before", p.before))
	}
	return all
}

// peer is one in front of the registry: a process for each way to reach that.
type peer struct {
	recipe

	b       *bench
	program string
	plain   *instance
	tls     *instance // started when it is first needed
}

// instance is a running process of a peer.
type instance struct {
	*server

	address string
	dir     string
}

func newPeer(ctx context.Context, r recipe, b *bench) (*peer, error) {
	p := &peer{recipe: r, b: b}
	if r.find == nil { // the registry itself
		p.plain = &instance{server: b.upstream.server, address: b.upstream.Plain}
		p.tls = &instance{server: b.upstream.server, address: b.upstream.TLS}
		return p, nil
	}
	var err error
	if p.program, err = r.find(ctx, b); err != nil {
		return nil, err
	}
	p.plain, err = p.start(ctx, b.origin(false))
	return p, err
}

func (b *bench) origin(tls bool) origin {
	if tls {
		return origin{"https://" + b.upstream.TLS, b.upstream.caFile}
	}
	return origin{"http://" + b.upstream.Plain, ""}
}

// start starts another instance and waits until it answers.
func (p *peer) start(ctx context.Context, at origin) (*instance, error) {
	dir, err := os.MkdirTemp(p.b.dir, p.name+"-")
	if err != nil {
		return nil, err
	}
	address, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	c, err := p.command(ctx, p.program, dir, address, at)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.Dir, c.Stdout, c.Stderr = dir, log, log
	s, err := start(c)
	if err != nil {
		return nil, err
	}
	i := &instance{server: s, address: address, dir: dir}
	if err := s.answers(ctx, "http://"+address+"/v2/"); err != nil {
		s.stop()
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w: %.500s", err, text)
	}
	return i, nil
}

// over is the instance that reaches the registry over TLS, or not.
func (p *peer) over(ctx context.Context, tls bool) (*instance, error) {
	if !tls {
		return p.plain, nil
	}
	if p.tls == nil {
		var err error
		if p.tls, err = p.start(ctx, p.b.origin(true)); err != nil {
			return nil, err
		}
	}
	return p.tls, nil
}

// path is where the peer has an object of the one repository there is.
func (p *peer) path(kind, reference string) string {
	return "/v2/" + p.prefix + "team/app/" + kind + "/" + reference
}

func (p *peer) stop() {
	for _, i := range []*instance{p.plain, p.tls} {
		if i != nil && i.server != p.b.upstream.server {
			i.stop()
		}
	}
}

// write writes a peer's configuration.
func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }

func zotRecipe() recipe {
	return recipe{name: "zot", find: func(context.Context, *bench) (string, error) {
		if path, err := exec.LookPath("zot"); err == nil {
			return "", fmt.Errorf("%s is there, but how to start it is not written here", path)
		}
		return "", errors.New("it cannot be had: the Go module proxy that is reached here does not serve zotregistry.dev/zot")
	}}
}
