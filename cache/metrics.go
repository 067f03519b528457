package cache

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"berth/cache/store"
)

// Numbers say how the cache is doing. Counts are since the start.
type Numbers struct {
	// Bytes that are kept or reserved for what is being fetched, and how many
	// may be; 0: the disk's own limit only.
	Bytes, Limit int64
	// Blobs that are kept. The same bytes from two origins are two.
	Blobs int64
	// Foreign files in the folder, which are left alone.
	Foreign int64
	// Evicted blobs.
	Evicted int64
	// Fills that are under way.
	Fills int
	// Writable is false while pulls go past the disk since it failed or the folder
	// cannot be used.
	Writable bool
	// Past is why pulls go past the disk, or did in the last hour; nil: they did not.
	Past *Past
	// Bypassed pulls went past the disk.
	Bypassed int64
	// Errors of file operations, by operation.
	Errors map[string]int64
	// Corrupt blobs that were found on the disk, by registry.
	Corrupt map[string]int64
}

// Numbers says how the cache is doing now.
func (c *Cache) Numbers() Numbers {
	u, limit, failed := c.folder.counted()
	past := c.trouble.past()
	n := Numbers{
		Bytes: u.Bytes, Limit: limit, Blobs: u.Blobs, Evicted: u.Evicted, Foreign: u.Foreign, Past: past,
		Writable: past == nil || past.Reason != PastUnusable && past.Reason != PastFailed, Errors: map[string]int64{},
	}
	for _, op := range store.Ops() {
		n.Errors[string(op)] = failed[op]
	}
	n.Bypassed, n.Corrupt = c.counts.bypassed.Load(), c.counts.byRegistry()
	n.Fills = c.downloads.Len()
	return n
}

// Size is how many bytes the folder holds or has promised to what is being
// fetched, and how many it may; 0: the disk's own limit only.
func (c *Cache) Size() (bytes, limit int64) {
	s := c.folder.store()
	return s.Usage().Bytes, s.Limit()
}

// counts is what nobody else counts.
type counts struct {
	bypassed atomic.Int64 // pulls that went past the disk

	mu sync.Mutex
	// registries are those that origins are known by; corrupt is by registry.
	registries map[string]string
	corrupt    map[string]int64
}

// know makes the series of a registry, with the name that it has now.
func (c *counts) know(origin, registry string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.registries == nil {
		c.registries, c.corrupt = map[string]string{}, map[string]int64{}
	}
	c.registries[origin] = registry
	c.corrupt[registry] += 0
}

func (c *counts) wasCorrupt(origin string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if registry, ok := c.registries[origin]; ok { // nobody can ask for those of others
		c.corrupt[registry]++
	}
}

func (c *counts) byRegistry() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.corrupt)
}

// The metrics. They are read when somebody asks for them, and kept nowhere else.
type descs struct {
	fills, bytes, limit, objects, foreign, writable, evictions, errors, corrupt, bypass *prometheus.Desc
}

func newDescs() descs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("berth_"+name, help, labels, nil)
	}
	return descs{
		fills:     desc("fills_in_progress", "Downloads that are under way."),
		bytes:     desc("cache_bytes", "Bytes that are kept, or reserved for downloads that are under way."),
		limit:     desc("cache_limit_bytes", "How many bytes may be kept. 0: no limit but the disk's."),
		objects:   desc("cache_objects", "Blobs and manifests that are kept. The same bytes from two registries are two."),
		foreign:   desc("cache_foreign_files", "Files in the cache folder that are not the cache's. They are left alone."),
		writable:  desc("cache_writable", "Whether downloads are kept: 0 while pulls go past a disk that failed, or a cache folder that cannot be used."),
		evictions: desc("cache_evictions_total", "Blobs and manifests that had to go for others."),
		errors:    desc("cache_errors_total", "File operations in the cache folder that failed.", "operation"),
		corrupt:   desc("corrupt_blobs_total", "Blobs and manifests that had gone bad on the disk. They are fetched again.", "registry"),
		bypass:    desc("disk_bypass_total", "Requests that were answered past the disk, since it failed or had no room."),
	}
}

// Describe is prometheus.Collector's.
func (c *Cache) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect is prometheus.Collector's.
func (c *Cache) Collect(ch chan<- prometheus.Metric) {
	n, d := c.Numbers(), c.descs
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	send(d.fills, prometheus.GaugeValue, float64(n.Fills))
	send(d.bytes, prometheus.GaugeValue, float64(n.Bytes))
	send(d.limit, prometheus.GaugeValue, float64(n.Limit))
	send(d.objects, prometheus.GaugeValue, float64(n.Blobs))
	send(d.foreign, prometheus.GaugeValue, float64(n.Foreign))
	writable := 0.0
	if n.Writable {
		writable = 1
	}
	send(d.writable, prometheus.GaugeValue, writable)
	send(d.evictions, prometheus.CounterValue, float64(n.Evicted))
	send(d.bypass, prometheus.CounterValue, float64(n.Bypassed))
	for operation, count := range n.Errors {
		send(d.errors, prometheus.CounterValue, float64(count), operation)
	}
	for registry, count := range n.Corrupt {
		send(d.corrupt, prometheus.CounterValue, float64(count), registry)
	}
}
