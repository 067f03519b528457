package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"berth/fleet"
	"berth/fleet/bucket"
	"berth/fleet/coordinator"
	"berth/fleet/gate"
	"berth/fleet/seal"
	"berth/internal/config"
	"berth/internal/secret"

	"berth/auth/credential"
)

// engines are what makes this node one of a fleet. A nil *engines is a node that is
// alone.
type engines struct {
	tier        *fleet.Tier
	bucket      *bucket.Bucket
	coordinator *coordinator.Coordinator
}

// maxFleetKey bounds a file with fleet keys: two lines.
const maxFleetKey = 4 << 10

// newEngines makes those of the configuration. It asks them nothing: engines that are
// away cost a pull a moment, and no start.
func (n *node) newEngines(f *config.Fleet) (*engines, error) {
	if f == nil {
		return nil, nil //nolint:nilnil // a node that is alone
	}
	keys, err := fleetKeys(n.fileOf(f.KeyFile, ""))
	if err != nil {
		return nil, fmt.Errorf("fleet.key_file: %w", err)
	}
	gates, err := gate.NewMetrics(n.registry)
	if err != nil {
		return nil, err
	}
	metrics, err := fleet.NewMetrics(n.registry)
	if err != nil {
		return nil, err
	}
	e := &engines{}
	if e.bucket, err = n.newBucket(&f.Bucket, gates); err != nil {
		return nil, fmt.Errorf("fleet.bucket: %w", err)
	}
	if e.coordinator, err = n.newCoordinator(f, gates); err != nil {
		e.bucket.Close()
		return nil, fmt.Errorf("fleet.coordinator: %w", err)
	}
	o := fleet.Options{Bucket: e.bucket, Coordinator: e.coordinator, Patience: f.Patience, Verified: f.Stream == config.StreamVerified, Metrics: metrics, Log: n.log}
	for _, k := range keys {
		o.Public = append(o.Public, seal.Public(k))
	}
	e.tier = fleet.New(o)
	return e, nil
}

func (e *engines) close() {
	if e == nil {
		return
	}
	e.tier.Close()
	e.coordinator.Close()
	e.bucket.Close()
}

// tierOf is what the cache asks; nil: this node is alone.
func (e *engines) tierOf() *fleet.Tier {
	if e == nil {
		return nil
	}
	return e.tier
}

func (n *node) newBucket(f *config.FleetBucket, m *gate.Metrics) (*bucket.Bucket, error) {
	endpoint, err := url.Parse(f.Endpoint)
	if err != nil {
		return nil, err
	}
	o := bucket.Options{Endpoint: endpoint, Name: f.Name, Region: f.Region, Metrics: m}
	if f.AccessKeyFile != "" {
		file := n.fileOf(f.AccessKeyFile, "")
		o.AccessKey = func() (bucket.AccessKey, error) {
			content, err := file.Read(maxFleetKey)
			id, key, _ := bytes.Cut(bytes.TrimSpace(content), []byte(":"))
			return bucket.AccessKey{ID: string(id), Secret: secret.New(string(key))}, err
		}
	}
	if f.CAFile != "" {
		cas, err := n.trusted(f.CAFile, endpoint.Hostname())
		if err != nil {
			return nil, err
		}
		o.Transport = &http.Transport{TLSClientConfig: cas, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 5 * time.Second}
	}
	return bucket.New(o)
}

func (n *node) newCoordinator(f *config.Fleet, m *gate.Metrics) (*coordinator.Coordinator, error) {
	c := &f.Coordinator
	password := n.fileOf(c.PasswordFile, "")
	o := coordinator.Options{
		Address: c.Address, Node: c.Username, Zone: f.Zone, Metrics: m,
		Password: func() (secret.Text, error) {
			content, err := password.Read(maxFleetKey)
			return secret.New(string(bytes.TrimSuffix(content, []byte("\n")))), err
		},
	}
	if c.TLS {
		host, _, err := net.SplitHostPort(c.Address)
		if err != nil {
			return nil, err
		}
		if o.TLS, err = n.trusted(c.CAFile, host); err != nil {
			return nil, err
		}
	}
	return coordinator.New(o)
}

// trusted is TLS to host, with the certificates of a file instead of the system's.
func (n *node) trusted(caFile, host string) (*tls.Config, error) {
	pem, err := n.readCAs(caFile)
	if err != nil {
		return nil, err
	}
	cas, err := pool(caFile, pem)
	return &tls.Config{RootCAs: cas, ServerName: host, MinVersion: tls.VersionTLS12}, err
}

func fleetKeys(f credential.File) ([]seal.Key, error) {
	content, err := f.Read(maxFleetKey)
	if err != nil {
		return nil, err
	}
	return seal.ParseKeys(content)
}

// fleetKey is an organisation's key file, which is looked at once a second while it is
// used.
type fleetKey struct {
	file credential.File

	mu     sync.Mutex
	looked time.Time
	keys   []seal.Key
	err    error
}

// read gives the keys; none where the file cannot be used.
func (k *fleetKey) read(n *node, organisation string) []seal.Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := n.now(); now.Sub(k.looked).Abs() >= time.Second {
		before := k.err
		k.keys, k.err = fleetKeys(k.file)
		k.looked = now
		if k.err != nil && before == nil {
			n.log.Error("what an organisation's accounts pull is shared with no other node: its fleet_key_file cannot be used", "organisation", organisation, "err", k.err)
		}
	}
	return k.keys
}

// newFleetKeys are the key files of the organisations that have one.
func (g *generation) newFleetKeys(n *node) {
	for name, o := range g.cfg.Organisations {
		if o.FleetKeyFile != "" && n.engines != nil {
			g.fleetKeys[name] = &fleetKey{file: n.fileOf(o.FleetKeyFile, "")}
		}
	}
}

// scopes are those of the fleet for the account that an organisation asks about repo
// with.
func (g *generation) scopes(n *node, at sourceKey) func(ctx context.Context, repo string) []seal.Scope {
	key := g.fleetKeys[at.organisation]
	if key == nil {
		return nil
	}
	return func(ctx context.Context, repo string) []seal.Scope {
		c, err := g.credential(ctx, at, repo)
		if err != nil || c.Shared() {
			return nil
		}
		var scopes []seal.Scope
		for _, k := range key.read(n, at.organisation) {
			scopes = append(scopes, seal.Private(k, at.registry.spec.Origin.Dir(), c.Username.Reveal(), c.ScopeSecret().Reveal()))
		}
		return scopes
	}
}
