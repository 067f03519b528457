package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"berth/auth/credential"
	"berth/fleet"
	"berth/fleet/bucket"
	"berth/fleet/coordinator"
	"berth/fleet/gate"
	"berth/fleet/seal"
	"berth/internal/admin"
	"berth/internal/config"
	"berth/internal/diagnose"
	"berth/internal/limit"
	"berth/internal/secret"
)

// inFleet is what the fleet's secrets are for, where accounts have a registry. No
// registry can be called so.
const inFleet = "the fleet"

// The fleet's secrets, by their keys in the configuration.
const (
	fleetKey         = "key_file"
	fleetAccessKey   = "bucket.access_key_file"
	fleetPassword    = "coordinator.password_file"
	organisationsKey = "fleet_key_file"
)

// fleetSecrets are the accounts of the fleet: its own, and each organisation's key. They
// are kept, watched and reported as all secrets are.
func (g *generation) fleetSecrets(before secrets) []credential.Entry {
	f := g.cfg.Fleet
	if g.node.started != nil {
		f = g.node.started.Fleet // another one takes a restart
	}
	if f == nil {
		return nil
	}
	var all []credential.Entry
	add := func(organisation, name, path, folder string, check func([]byte) error) {
		if path == "" {
			return
		}
		source := g.secrets.keep(before, []string{"fleet", name, path, folder}, func() credential.Source {
			return credential.SecretFile(g.node.fileOf(path, folder), check)
		})
		all = append(all, credential.Entry{Name: name, Organisation: organisation, Registry: inFleet, Source: source})
	}
	add("", fleetKey, f.KeyFile, "", checkKeys)
	add("", fleetAccessKey, f.Bucket.AccessKeyFile, "", func(file []byte) error { _, err := bucket.ParseAccessKey(file); return err })
	add("", fleetPassword, f.Coordinator.PasswordFile, "", nil)
	for name, o := range g.cfg.Organisations {
		add(name, organisationsKey, o.FleetKeyFile, o.Folder(), checkKeys)
	}
	return all
}

func checkKeys(file []byte) error { _, err := seal.ParseKeys(file); return err }

// fleetFiles are the secret files of the fleet.
func fleetFiles(cfg *config.Config) (files []string) {
	f := cfg.Fleet
	if f == nil {
		return nil
	}
	for _, path := range []string{f.KeyFile, f.Bucket.AccessKeyFile, f.Coordinator.PasswordFile} {
		if path != "" {
			files = append(files, path)
		}
	}
	for _, o := range cfg.Organisations {
		if o.FleetKeyFile != "" {
			files = append(files, o.FleetKeyFile)
		}
	}
	return files
}

// fleetSecret is one of the fleet's secrets as it is now.
func fleetSecret(ctx context.Context, t *credential.Table, organisation, name string) (secret.Text, error) {
	c, err := t.Account(ctx, organisation, name, inFleet)
	if err != nil || c == nil {
		return secret.Text{}, err
	}
	return c.Password, nil
}

// fleetKeys are the keys of organisation in the fleet, or the fleet's own. That they
// cannot be read is logged when it happens.
func fleetKeys(ctx context.Context, t *credential.Table, organisation string) ([]seal.Key, error) {
	name := organisationsKey
	if organisation == "" {
		name = fleetKey
	}
	text, err := fleetSecret(ctx, t, organisation, name)
	if err != nil {
		return nil, err
	}
	return seal.ParseKeys([]byte(text.Reveal()))
}

// engines are what makes this node one of a fleet. A nil *engines is a node that is
// alone.
type engines struct {
	tier        *fleet.Tier
	bucket      *bucket.Bucket
	coordinator *coordinator.Coordinator
}

// newEngines makes those of the configuration, with the secrets that table gives. It
// asks them nothing: engines that are away cost a pull a moment, and no start.
func (n *node) newEngines(f *config.Fleet, table func() *credential.Table) (*engines, error) {
	if f == nil {
		return nil, nil //nolint:nilnil // a node that is alone
	}
	gates, err := gate.NewMetrics(n.registry)
	if err != nil {
		return nil, err
	}
	counts, err := fleet.NewMetrics(n.registry)
	if err != nil {
		return nil, err
	}
	e := &engines{}
	if e.bucket, err = n.newBucket(f, table, gates); err != nil {
		return nil, fmt.Errorf("fleet.bucket: %w", err)
	}
	if e.coordinator, err = n.newCoordinator(f, table, gates); err != nil {
		e.bucket.Close()
		return nil, fmt.Errorf("fleet.coordinator: %w", err)
	}
	e.tier = fleet.New(fleet.Options{
		Bucket: e.bucket, Coordinator: e.coordinator, Patience: f.Patience, Verified: f.Stream == config.StreamVerified, Metrics: counts, Log: n.log,
		Memory: func(ctx context.Context, organisation string, bytes int64) (func(), error) {
			slot, err := n.memory.Take(ctx, limit.Want{Organisation: organisation, At: inFleet, N: bytes})
			return slot.Release, err
		},
		Public: func() []seal.Scope { return publicScopes(table()) },
	})
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

// status is what the node's status says of f, which e was made of.
func (e *engines) status(f *config.Fleet) *admin.Fleet {
	if e == nil {
		return nil
	}
	s := &admin.Fleet{Node: f.Coordinator.Username, Zone: f.Zone, Away: []string{}}
	if e.bucket.Away() != nil {
		s.Away = append(s.Away, "bucket")
	}
	if e.coordinator.Away() != nil {
		s.Away = append(s.Away, "coordinator")
	}
	return s
}

// tierOf is what the cache asks; nil: this node is alone.
func (e *engines) tierOf() *fleet.Tier {
	if e == nil {
		return nil
	}
	return e.tier
}

func (n *node) newBucket(of *config.Fleet, table func() *credential.Table, m *gate.Metrics) (*bucket.Bucket, error) {
	f := &of.Bucket
	endpoint, err := url.Parse(f.Endpoint)
	if err != nil {
		return nil, errors.New("endpoint: no URL") // the error would repeat it
	}
	o := bucket.Options{Endpoint: endpoint, Name: f.Name, Region: f.Region, Patience: of.Patience, Metrics: m}
	if f.AccessKeyFile != "" {
		o.AccessKey = func(ctx context.Context) (bucket.AccessKey, error) {
			text, err := fleetSecret(ctx, table(), "", fleetAccessKey)
			if err != nil {
				return bucket.AccessKey{}, err
			}
			return bucket.ParseAccessKey([]byte(text.Reveal()))
		}
	}
	if o.TLS, err = n.fleetTLS(f.CAFile, endpoint.Hostname()); err != nil {
		return nil, err
	}
	return bucket.New(o)
}

func (n *node) newCoordinator(f *config.Fleet, table func() *credential.Table, m *gate.Metrics) (*coordinator.Coordinator, error) {
	c := &f.Coordinator
	o := coordinator.Options{
		Address: c.Address, Node: c.Username, Zone: f.Zone, Metrics: m,
		Password: func() (secret.Text, error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return fleetSecret(ctx, table(), "", fleetPassword)
		},
	}
	host, _, err := net.SplitHostPort(c.Address)
	if err == nil && c.TLS {
		o.TLS, err = n.fleetTLS(c.CAFile, host)
	}
	if err != nil {
		return nil, err
	}
	return coordinator.New(o)
}

// publicScopes are those of what everyone is shown.
func publicScopes(t *credential.Table) []seal.Scope {
	var scopes []seal.Scope
	keys, _ := fleetKeys(context.Background(), t, "") // without, nothing is shared
	for _, k := range keys {
		scopes = append(scopes, seal.Public(k))
	}
	return scopes
}

// scopes are those of the fleet in which at's account shares what it may see of a
// repository: the first is written, all are read.
func (g *generation) scopes(at sourceKey) func(ctx context.Context, repo string) []seal.Scope {
	if g.cfg.Organisations[at.organisation].FleetKeyFile == "" {
		return nil
	}
	return func(ctx context.Context, repo string) []seal.Scope {
		keys, err := fleetKeys(ctx, g.credentials, at.organisation)
		if err != nil {
			return nil
		}
		c, err := at.credential(ctx, repo)
		if err != nil || c.Shared() {
			return nil
		}
		scopes := make([]seal.Scope, 0, len(keys))
		for _, k := range keys {
			scopes = append(scopes, seal.Private(k, at.registry.spec.Origin.Dir(), c.Username.Reveal(), c.ScopeSecret().Reveal()))
		}
		return scopes
	}
}

func (n *node) fleetTLS(caFile, host string) (*tls.Config, error) {
	pem, err := n.readCAs(caFile)
	if err != nil {
		return nil, err
	}
	cas, err := pool(caFile, pem)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cas, ServerName: host}, err
}

// helloEvery is how often a node shows others which key it has. They keep it for a day.
const helloEvery = 6 * time.Hour

// greet shows other nodes which fleet key this one has, by its fingerprint, so that
// diagnose finds nodes that have another.
func (n *node) greet(ctx context.Context) {
	t := time.NewTicker(helloEvery)
	defer t.Stop()
	for {
		if keys, err := fleetKeys(ctx, n.credentials(), ""); err == nil {
			_ = n.engines.coordinator.Greet(ctx, keys[0].Fingerprint()) // away: it is shown in the metrics
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// FleetSetup is what berth setup fleet prints.
type FleetSetup struct {
	Configured bool
	// Node is this node's user, and ACL the line that makes it.
	Node, ACL string
	Bucket    string
	// Days is after how many the bucket may delete what was written.
	Days int
}

// SetupFleet is what the engines need of the configuration's fleet, or of one to come.
func SetupFleet(cfg *config.Config) FleetSetup {
	s := FleetSetup{Node: "NODE", Days: int(coordinator.KeepDone/(24*time.Hour)) + 1}
	if f := cfg.Fleet; f != nil {
		s.Configured, s.Node, s.Bucket = true, f.Coordinator.Username, f.Bucket.Name
	}
	s.ACL = coordinator.ACL(s.Node)
	return s
}

// diagnoseFleet answers berth diagnose fleet, with clients of its own: what a gate has
// closed is asked too.
func (g *generation) diagnoseFleet(ctx context.Context) (*diagnose.Report, error) {
	f := g.node.started.Fleet
	if f == nil {
		return nil, &admin.Error{Status: http.StatusNotFound, Message: "there is no fleet: in the configuration, which this node shares nothing without: berth setup fleet prints what it takes"}
	}
	table := func() *credential.Table { return g.credentials }
	b, err := g.node.newBucket(f, table, nil)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	c, err := g.node.newCoordinator(f, table, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s := diagnose.FleetSubject{
		Node: f.Coordinator.Username, Zone: f.Zone, Bucket: b, Coordinator: c,
		Organisations: map[string][]string{}, Unusable: map[string]error{},
	}
	keys, err := fleetKeys(ctx, g.credentials, "")
	s.Keys, s.KeyErr = fingerprints(keys), err
	for name, o := range g.cfg.Organisations {
		if o.FleetKeyFile == "" {
			continue
		}
		if keys, err := fleetKeys(ctx, g.credentials, name); err != nil {
			s.Unusable[name] = err
		} else {
			s.Organisations[name] = fingerprints(keys)
		}
	}
	return diagnose.Fleet(ctx, s), nil
}

func fingerprints(keys []seal.Key) []string {
	shown := make([]string, 0, len(keys))
	for _, k := range keys {
		shown = append(shown, k.Fingerprint())
	}
	return shown
}
