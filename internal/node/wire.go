package node

import (
	"context"
	"errors"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"berth/auth/credential"
	"berth/auth/token"
	"berth/cache"
	"berth/internal/admin"
	"berth/internal/audit"
	"berth/internal/config"
	"berth/internal/descriptor"
	"berth/internal/flight"
	"berth/internal/limit"
	"berth/oci"
	"berth/proxy"
	"berth/upstream"
)

func newNode(cfg *config.Config, open [][]net.Listener, s setup) (*node, error) {
	n := &node{
		setup: s, start: s.now(),
		started:   cfg,
		registry:  prometheus.NewRegistry(),
		requests:  &limit.Pool{},
		downloads: newDownloads(),
		memory:    newMemory(),
		hosts:     newHosts(cfg.Upstream),
		dialled:   &upstream.Connections{Most: mostUpstream(descriptor.Limit())},
		sessions:  upstream.NewSessions(), tokens: token.NewKept(),
		secretsDue: make(chan struct{}, 1),
		changing:   make(chan struct{}, 1),
		probes:     flight.New[struct{}, struct{}](probeTimeout),
		manager:    &serviceManager{log: s.log},
	}
	n.scrapes = newScrapes(n.registry)
	n.failures = proxy.NewFailures(n.now)
	n.history = admin.NewHistory(int(sampleFor / sampleEvery))
	n.registry.MustRegister(droppedLines(s.buffer))
	err := n.measure(n.registry)
	if err != nil {
		return nil, err
	}
	if n.listeners, err = newListeners(cfg, open, proxy.NewConnections(mostConnections(descriptor.Limit()), 0, n.log)); err != nil {
		return nil, err
	}
	if n.engines, err = n.newEngines(cfg.Fleet, n.credentials); err != nil {
		return nil, err
	}
	if n.cache, err = n.openCache(cfg.Cache, cfg.Upstream); err != nil {
		n.engines.close()
		return nil, err
	}
	n.audit = audit.New(audit.Options{Registerer: n.registry, Logger: n.log, Stdout: s.out})
	if n.tracing, err = newTracing(context.Background(), cfg.Tracing.Endpoint, s.version, s.log); err != nil {
		s.log.Error("nothing is traced", "err", err)
	}
	for _, f := range n.listeners {
		f.alive = func() { n.cache.Size() }
		n.config.serves(f)
	}
	n.registry.MustRegister(n.cache)
	if n.key, err = n.loadKey(cfg.Cache.Directory); err == nil {
		err = n.begin(cfg)
	}
	if err != nil {
		n.audit.Close()
		n.tracing.close()
		_ = n.cache.Close() // the first error counts
		n.engines.close()
		return nil, err
	}
	return n, nil
}

// measure makes the metrics, but for those of the cache and the log, which are
// their own collectors.
func (n *node) measure(r prometheus.Registerer) (err error) {
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(n.version),
	)
	n.pulls = proxy.NewMetrics(proxy.MetricsOptions{Registerer: r, MaxSeries: n.started.Metrics.MaxSeries})
	n.upstream = upstream.NewMetrics(r)
	n.config = newConfigMetrics(r)
	n.bypasses = newBypasses(r)
	n.auth, err = credential.NewMetrics(r)
	return err
}

func (n *node) openCache(c config.Cache, u config.Upstream) (*cache.Cache, error) {
	return cache.New(cache.Options{
		Dir: c.Directory,
		Limits: func(total int64) (maxSize, minFree int64, err error) {
			if total == 0 && c.MaxSize.Percent > 0 {
				return 0, 0, errors.New("its filesystem does not say how large it is, so that cache.max_size cannot be a share of it: write bytes, such as 20GiB")
			}
			return c.MaxSize.Of(total), c.MinFree.Of(total), nil
		},
		Parallel: u.Parallel, Connections: u.Connections,
		Fleet: n.engines.tierOf(),
		Admit: acquire(n.downloads),
		Held:  n.heldContent,
		Now:   n.now,
		Log:   n.log,
		// The key may lie in the folder that is opened here.
		Owner: func(organisation string) uint64 { return n.key.Number(organisation) },
	})
}

// poolWait is how long a download, or memory for it, is waited for: longer than an answer
// is, since downloads last, but so that the client still gets to know what it waited for.
const poolWait = 15 * time.Second

// newDownloads bounds the downloads of each organisation. Who waits in its queue is in a
// request, and those are bounded already.
func newDownloads() *limit.Pool {
	return &limit.Pool{Wait: poolWait, Queue: math.MaxInt, What: "downloads from registries", Key: "limits.fills"}
}

// memoryShare is how many bytes of manifests and lists one organisation may have in
// memory of one registry, and of parts of blobs from the fleet: sixteen manifests of the
// largest kind. memoryTotal is how many all have. Of the last quarter each organisation has
// one manifest at most, and no list. Who waits has a client cut off that takes its time, of
// whoever has most.
const memoryShare, memoryTotal = 64 << 20, 256 << 20

func newMemory() *limit.Pool {
	return &limit.Pool{Total: memoryTotal, Most: memoryShare, Small: oci.MaxManifest, Levels: true, Wait: poolWait, Queue: math.MaxInt, What: "bytes of manifests and lists", Key: "its share of memory"}
}

// newHosts shares out what goes to registries. Callers without an organisation have
// the usual rate.
func newHosts(u config.Upstream) *limit.Hosts {
	usual := config.UsualLimits()
	return &limit.Hosts{Connections: u.Connections, Rate: rateOf(usual)}
}

func rateOf(l config.Limits) limit.Rate {
	return limit.Rate{PerSecond: float64(l.Rate), Burst: l.Burst}
}

// acquire gives a slot of l as the func that releases it.
func acquire(l *limit.Pool) func(ctx context.Context, organisation string) (release func(), err error) {
	return func(ctx context.Context, organisation string) (func(), error) {
		slot, err := l.Take(ctx, limit.Want{Organisation: organisation})
		if err != nil {
			return nil, err
		}
		return sync.OnceFunc(slot.Release), nil
	}
}

// loadKey reads the key of the fingerprints. Who ran berth without a service manager
// has one in the cache, by which everything was proven so far.
func (n *node) loadKey(cache string) (credential.Key, error) {
	path, former := keyFile(cache), filepath.Join(cache, "key")
	if path != former {
		moved, err := credential.MoveKey(former, path)
		if err != nil {
			n.log.Warn("the fingerprint key of before stays in the cache folder; where there is no other one every right is proven again", "err", err)
		} else if moved {
			n.log.Info("the fingerprint key was moved to the state folder", "path", path)
		}
	}
	key, err := credential.LoadKey(path)
	if errors.Is(err, credential.ErrNotKept) {
		n.log.Warn("the fingerprint key is in memory only: after the next start every right is proven again", "path", path, "err", err)
		return credential.NewKey(), nil
	}
	return key, err
}

// keyFile is where the key of the fingerprints lies: in the state folder, if the
// service manager made one (StateDirectory=), which nobody empties as people do
// with caches; else in the cache.
func keyFile(cache string) string {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "key")
	}
	return filepath.Join(cache, "key")
}
