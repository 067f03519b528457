// Package node is the running process: it opens the listeners, makes of a configuration
// what answers there, puts changed configurations in force, and says how it is.
package node

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"berth/cache"
	"berth/internal/admin"
	"berth/internal/audit"
	"berth/internal/config"
	"berth/internal/flight"
	"berth/internal/hung"
	"berth/internal/limit"
	"berth/proxy"
	"berth/upstream"

	"berth/auth/credential"
	"berth/auth/token"
)

// node is everything that serves: what lives as long as the process, and the
// generation that a configuration makes.
type node struct {
	setup

	// Made once, in wire.go.
	start     time.Time
	started   *config.Config // what needs a restart is taken from here
	registry  *prometheus.Registry
	cache     *cache.Cache
	engines   *engines // of the fleet; nil: this node is alone
	key       credential.Key
	pulls     *proxy.Metrics
	failures  *proxy.Failures
	audit     *audit.Log
	tracing   *tracing
	history   *admin.History
	requests  *limit.Pool // that are answered
	downloads *limit.Pool // from registries
	memory    *limit.Pool // bytes of manifests, lists, and parts from the fleet
	dialled   *upstream.Connections
	sessions  *upstream.Sessions
	tokens    *token.Kept
	hosts     *limit.Hosts // what goes to registries
	upstream  *upstream.Metrics
	auth      *credential.Metrics
	config    *configMetrics
	listeners []*listener
	manager   *serviceManager
	probes    *flight.Group[struct{}, struct{}]
	scrapes   *scrapes
	// secretsDue says that the secrets should be read again.
	secretsDue chan struct{}

	// changing has room for whoever reads a configuration and puts it in force. That
	// takes as long as the disk takes, so nothing else waits for it.
	changing chan struct{}

	// mu guards all below. What is written by whoever is changing the configuration
	// he reads without it. Nobody who holds it looks at a file or goes upstream.
	mu      sync.Mutex
	cfg     *config.Config
	current *generation
	read    time.Time // when the main file of cfg was
	failure *badMain  // the main file that was read last; nil: it is in force
	retired []retired

	bypasses *bypasses

	unlisted unlisted
}

// close ends what newNode began. Nothing may be served any more.
func (n *node) close() error {
	n.mu.Lock()
	for _, r := range n.retired {
		r.close()
	}
	n.current.clients.closeAllBut(nil)
	n.unlisted.close()
	n.mu.Unlock() // what is waited for below may want to know the secrets in force
	n.probes.Close()
	n.scrapes.close()
	n.audit.Close()
	n.tracing.close()
	err := n.cache.Close()
	n.engines.close()
	return err
}

// registryClients are those of the generation in force. Caller holds mu, or is changing
// the configuration.
func (n *node) registryClients() registryClients {
	if n.current == nil {
		return nil
	}
	return n.current.clients
}

// Options are what a node needs besides its configuration.
type Options struct {
	// Override lets the command line win over a configuration that was read again.
	// It may be nil.
	Override func(*config.Config) error
	// Log is where the log goes. Writes may be late, and are never waited for.
	Log io.Writer
	// Out is standard output, for an audit that goes there.
	Out io.Writer
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Version is what this program calls itself.
	Version string
	// Hung bounds how long each file may take, and knows those that hang. If nil, the
	// node has one of its own.
	Hung *hung.Table
}

// Serve runs the node until ctx ends.
func Serve(ctx context.Context, cfg *config.Config, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Hung == nil {
		o.Hung = &hung.Table{}
	}
	s := setup{override: o.Override, version: o.Version, now: o.Now, buffer: newLogBuffer(o.Log), out: o.Out, hung: o.Hung}
	defer s.buffer.close()
	s.log, s.level = newLogger(cfg.Log, s.buffer)
	takeStandardLog(s.log)
	return serve(ctx, cfg, s)
}

// setup is what a node is handed besides its configuration. Override may be nil.
type setup struct {
	override func(*config.Config) error
	version  string
	log      *slog.Logger
	level    *slog.LevelVar
	buffer   *logBuffer
	out      io.Writer // standard output
	now      func() time.Time
	hung     *hung.Table
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
	sockets, err := inheritSockets()
	if err != nil {
		return err
	}
	open, err := listen(ctx, cfg.Listeners, "--listen or listeners[].address", sockets)
	if err != nil {
		return err
	}
	defer closeSockets(open)
	n, err := newNode(cfg, open, s)
	if err != nil {
		return err
	}
	err = n.run(ctx, sockets, hangUps)
	if cerr := n.close(); err == nil {
		err = cerr
	}
	return err
}

// run serves until ctx ends or a server fails.
func (n *node) run(ctx context.Context, sockets *inheritedSockets, hangUps <-chan os.Signal) error {
	g, ctx := errgroup.WithContext(ctx)
	status := n.summary() // as long as nobody reloads
	for _, l := range n.listeners {
		for _, socket := range l.open {
			server := proxy.Server(l, n.log)
			socket = l.connections.Listener(socket)
			g.Go(func() error { return serveOn(ctx, server, socket, l.serve) })
		}
	}
	beside := n.listenAdmin(ctx, sockets)
	admins := proxy.NewConnections(adminConnections, adminStall, n.log)
	for _, l := range beside {
		n.log.Info("showing metrics", "address", l.Addr().String())
		l = admins.Listener(l)
		g.Go(func() error {
			n.serveBeside(ctx, n.shielded(n.adminServer(admins)), l, n.adminServing())
			return nil
		})
	}
	sockets.closeRest(n.log)
	commands := n.listenSocket(ctx)
	if commands != nil {
		g.Go(func() error { n.serveBeside(ctx, n.socketServer(), commands, plainly); return nil })
	}
	g.Go(func() error { n.reloadOnHangUp(ctx, hangUps); return nil })
	g.Go(func() error { n.watch(ctx); return nil })
	g.Go(func() error { n.keepHistory(ctx); return nil })
	g.Go(func() error { n.readSecrets(ctx); return nil })
	g.Go(func() error { n.feedWatchdog(ctx); return nil })
	if n.engines != nil {
		g.Go(func() error { n.greet(ctx); return nil })
	}
	n.logStart(beside, commands != nil)
	for _, l := range n.listeners {
		for _, at := range l.sockets {
			n.log.Info("answering pulls", "address", at.String())
		}
	}
	n.manager.ready(status)
	g.Go(func() error {
		<-ctx.Done()
		n.log.Info("berth is stopping", "running_pulls_may_take", drainFor.String())
		n.manager.stopping()
		return nil
	})
	return g.Wait()
}

// reloadOnHangUp reads the configuration again whenever a signal says so.
func (n *node) reloadOnHangUp(ctx context.Context, hangUps <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangUps:
			_, _ = n.reload(ctx) // it is logged
		}
	}
}
