package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"berth/internal/config"
	"berth/proxy"
)

type serveFlags struct{ listen, cache, maxSize string }

func serveCommand(o *options) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Answer pulls",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			outlive() // whoever reads the log may go in the middle of pulls
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if err := f.apply(cfg); err != nil {
				return usageError{err}
			}
			s := setup{flags: f, buffer: newLogBuffer(c.ErrOrStderr()), now: o.now}
			defer s.buffer.close()
			if s.now == nil {
				s.now = time.Now
			}
			s.log, s.level = newLogger(cfg.Log, s.buffer)
			takeStandardLog(s.log)
			return serve(c.Context(), cfg, s)
		},
	}
	c.Flags().StringVar(&f.listen, "listen", "", "address of the first listener, such as localhost:5000")
	c.Flags().StringVar(&f.cache, "cache", "", "cache folder")
	c.Flags().StringVar(&f.maxSize, "max-size", "", "limit of the cache, such as 20% or 50GiB")
	return c
}

// apply lets flags win over the file.
func (f serveFlags) apply(cfg *config.Config) error {
	if f.listen != "" {
		if err := cfg.Listeners[0].Address.UnmarshalText([]byte(f.listen)); err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
	}
	if f.cache != "" {
		dir, err := filepath.Abs(f.cache)
		if err != nil {
			return fmt.Errorf("--cache: %w", err)
		}
		cfg.Cache.Directory = dir
	}
	if f.maxSize != "" {
		if err := cfg.Cache.MaxSize.UnmarshalText([]byte(f.maxSize)); err != nil {
			return fmt.Errorf("--max-size: %w", err)
		}
	}
	return cfg.Validate()
}

// setup is what a node is handed besides its configuration. All of it is required.
type setup struct {
	flags  serveFlags
	log    *slog.Logger
	level  *slog.LevelVar
	buffer *logBuffer
	now    func() time.Time
}

// ballast is memory that is never touched, and so never there. The collector runs
// when the heap has doubled; what a pull of something small leaves behind doubles
// a heap of a few MiB dozens of times a second.
const ballast = 16 << 20

// serve runs the node until ctx ends.
func serve(ctx context.Context, cfg *config.Config, s setup) error {
	defer runtime.KeepAlive(make([]byte, ballast))
	hangUps := make(chan os.Signal, 1) // before anything else: it would end the process
	signal.Notify(hangUps, syscall.SIGHUP)
	defer signal.Stop(hangUps)
	sockets, err := takeSockets()
	if err != nil {
		return err
	}
	listening, err := listen(ctx, cfg.Listeners, sockets)
	if err != nil {
		return err
	}
	defer closeAll(listening)
	n, err := newNode(cfg, listening, s)
	if err != nil {
		return err
	}
	err = n.run(ctx, listening, sockets, hangUps)
	if cerr := n.close(); err == nil {
		err = cerr
	}
	return err
}

// run serves until ctx ends or a server fails.
func (n *node) run(ctx context.Context, listening []listening, sockets *handed, hangUps <-chan os.Signal) error {
	g, ctx := errgroup.WithContext(ctx)
	status := n.summary() // as long as nobody reloads
	for _, l := range listening {
		f := n.fronts[l.index]
		server := proxy.Server(f, n.log)
		g.Go(func() error { return serveOn(ctx, server, l, f.serve) })
	}
	beside := n.listenAdmin(ctx, sockets)
	for _, l := range beside {
		n.log.Info("showing metrics", "address", l.Addr().String())
		g.Go(func() error { n.serveBeside(ctx, n.shielded(n.adminServer()), l, n.adminServing()); return nil })
	}
	sockets.closeRest(n.log)
	l, commands := n.listenSocket(ctx)
	if commands {
		g.Go(func() error { n.serveBeside(ctx, n.socketServer(), l, plainly); return nil })
	}
	g.Go(func() error { n.follow(ctx, hangUps); return nil })
	g.Go(func() error { n.watch(ctx); return nil })
	g.Go(func() error { n.watchPulls(ctx); return nil })
	g.Go(func() error { n.readSecrets(ctx); return nil })
	g.Go(func() error { n.beat(ctx); return nil })
	n.sayBegun(beside, commands)
	for _, l := range listening {
		n.log.Info("answering pulls", "address", l.Addr().String())
	}
	n.manager.ready(status)
	defer context.AfterFunc(ctx, n.manager.stopping)()
	return g.Wait()
}

// follow reads the configuration again whenever a signal says so.
func (n *node) follow(ctx context.Context, hangUps <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangUps:
			n.reload(ctx)
		}
	}
}
