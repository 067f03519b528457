package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"berth/auth"
	"berth/cache"
	"berth/internal/config"
	"berth/proxy"
	"berth/upstream"
)

// drainFor is how long running answers may take after the signal to stop. A
// client that is cut off resumes by Range.
const drainFor = 10 * time.Second

type serveFlags struct{ listen, cache, maxSize string }

func serveCommand(o *options) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Answer pulls",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if err := f.apply(cfg); err != nil {
				return usageError{err}
			}
			return serve(c.Context(), cfg, newLogger(cfg.Log, c.ErrOrStderr()), o.now)
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

// serve runs the node until ctx ends. If now is nil, time.Now is the clock.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger, now func() time.Time) error {
	if now == nil {
		now = time.Now
	}
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
	listening, err := listen(cfg.Listeners)
	if err != nil {
		return err
	}
	defer closeAll(listening)
	n, err := newNode(cfg, log, now)
	if err != nil {
		return err
	}
	err = n.run(ctx, listening)
	if cerr := n.close(); err == nil {
		err = cerr
	}
	return err
}

func newLogger(l config.Log, to io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: map[config.Level]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[l.Level]}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(to, o))
	}
	return slog.New(slog.NewTextHandler(to, o))
}

// node is everything that serves: what lives as long as the process, and the
// desk that a configuration makes.
type node struct {
	cfg      *config.Config
	log      *slog.Logger
	now      func() time.Time
	registry *prometheus.Registry
	cache    *cache.Cache
	key      auth.Key
	pulls    *proxy.Metrics
	upstream *upstream.Metrics
	auth     *auth.Metrics
	desk     *desk
}

func newNode(cfg *config.Config, log *slog.Logger, now func() time.Time) (*node, error) {
	n := &node{cfg: cfg, log: log, now: now, registry: prometheus.NewRegistry()}
	n.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	n.pulls = proxy.NewMetrics(proxy.MetricsOptions{Registerer: n.registry, MaxSeries: cfg.Metrics.MaxSeries, Now: now})
	n.upstream = upstream.NewMetrics(n.registry)
	var err error
	if n.auth, err = auth.NewMetrics(n.registry); err != nil {
		return nil, err
	}
	if n.cache, err = openCache(cfg.Cache, cfg.Upstream, log, now); err != nil {
		return nil, err
	}
	if n.key, err = auth.LoadKey(filepath.Join(cfg.Cache.Directory, "key")); err == nil {
		n.desk, err = n.newDesk(cfg)
	}
	if err != nil {
		_ = n.cache.Close() // the first error counts
		return nil, err
	}
	return n, nil
}

func openCache(c config.Cache, u config.Upstream, log *slog.Logger, now func() time.Time) (*cache.Cache, error) {
	if err := os.MkdirAll(c.Directory, 0o700); err != nil {
		return nil, fmt.Errorf("making the cache folder: %w: name another one with --cache or cache.directory", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(c.Directory, &st); err != nil {
		return nil, fmt.Errorf("looking at the cache folder %s: %w", c.Directory, err)
	}
	total := int64(st.Blocks) * st.Bsize
	return cache.New(cache.Options{
		Dir:     c.Directory,
		MaxSize: c.MaxSize.Of(total), MinFree: c.MinFree.Of(total),
		Parallel: u.Parallel, Connections: u.Connections,
		Now: now, Log: log,
	})
}

// run serves until ctx ends or a server fails.
func (n *node) run(ctx context.Context, listening []listening) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listening {
		server := proxy.Server(n.desk.handlers[l.index], n.log)
		g.Go(func() error { return serveOn(ctx, server, l) })
	}
	for _, l := range n.listenAdmin() {
		n.log.Info("showing metrics", "address", l.Addr().String())
		g.Go(func() error { return serveOn(ctx, n.adminServer(), l) })
	}
	for _, l := range listening {
		n.log.Info("answering pulls", "address", l.Addr().String())
	}
	return g.Wait()
}

// serveOn serves l until ctx ends, then lets running answers finish for a while.
func serveOn(ctx context.Context, s *http.Server, l listening) error {
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
		defer cancel()
		err := s.Shutdown(grace)
		if err != nil {
			err = s.Close() // what still runs is cut off; clients resume
		}
		stopped <- err
	}()
	err := l.serve(s)
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	}
	return <-stopped
}

func (n *node) close() error {
	n.desk.close()
	return n.cache.Close()
}
