package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"berth/internal/admin"
	"berth/internal/config"
	"berth/internal/descriptor"
	"berth/internal/fileid"
	"berth/internal/hung"
)

// checkTimeout bounds how long a reload reads secrets.
const checkTimeout = 5 * time.Second

// change waits until nobody else changes the configuration. Call done.
func (n *node) change(ctx context.Context) (done func(), err error) {
	select {
	case n.changing <- struct{}{}:
		return func() { <-n.changing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for another reload: %w", context.Cause(ctx))
	}
}

// begin puts the configuration of the start in force.
func (n *node) begin(cfg *config.Config) error {
	if err := n.apply(cfg); err != nil {
		return err
	}
	n.mainApplied()
	_ = n.openAudit() // it is logged, and pulls go on
	return nil
}

// openAudit opens the audit's file, or opens it anew. Caller is changing the
// configuration.
func (n *node) openAudit() error {
	err := n.audit.Use(n.cfg.Audit.File)
	if err != nil {
		n.log.Error("the audit cannot be opened: pulls go on, and lines that are lost are counted", "err", err)
	}
	return err
}

// apply puts next in force: what comes from now on is answered by it, what is
// under way ends as it began. On an error nothing has changed. Caller is changing the
// configuration.
func (n *node) apply(next *config.Config) error {
	next = weighed(n.withoutBadDropIns(next, n.cfg))
	g, err := n.newGeneration(next)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	before, old := n.cfg, n.registryClients()
	n.cfg, n.current = next, g
	n.requests.SetLimits(requestLimits(next, mostConnections(descriptor.Limit())))
	n.downloads.SetLimits(limits(next, func(l config.Limits) int { return l.Fills }))
	n.hosts.SetRates(limits(next, rateOf))
	n.hosts.SetBandwidth(next.Upstream.Bandwidth.Bytes, limits(next, func(l config.Limits) int64 { return l.Bandwidth.Bytes }))
	for i, f := range n.listeners {
		f.live.Set(g.handlers[i])
	}
	n.level.Set(levelOf(next.Log))
	n.retire(old)
	n.keepCounting(next)
	g.expect(n.pulls, before)
	n.config.organisations(before, next)
	n.forgetAccounts(before, next, old)
	n.logChanges(before)
	n.readSecretsSoon()
	return nil
}

// keepCounting drops what was counted of organisations and registries that are gone. One whose
// listener is open need not be configured.
func (n *node) keepCounting(cfg *config.Config) {
	there := func(organisation string) bool {
		at := func(l config.Listener) bool { return l.Organisation == organisation }
		return knows(cfg, organisation) || slices.ContainsFunc(n.current.settings, at)
	}
	names := registryNames(cfg)
	known := map[string]bool{"other": true} // what no configuration names
	for _, name := range names {
		known[name] = true
	}
	n.pulls.Keep(there, func(registry string) bool { return known[registry] })
	n.failures.Keep(there)
	n.bypasses.keep(names)
}

// limits is one of the limits of each organisation.
func limits[T any](cfg *config.Config, of func(config.Limits) T) map[string]T {
	all := make(map[string]T, len(cfg.Organisations))
	for name, o := range cfg.Organisations {
		all[name] = of(o.Limits)
	}
	return all
}

// forgetAccounts drops the series of accounts that are gone.
func (n *node) forgetAccounts(before, next *config.Config, old registryClients) {
	if before == nil {
		return
	}
	for name, o := range before.Organisations {
		if next.Same(name, before) {
			continue
		}
		for _, c := range o.Credentials {
			same := func(other config.Credential) bool { return other.Name == c.Name && other.Registry == c.Registry }
			if !slices.ContainsFunc(next.Organisations[name].Credentials, same) {
				n.auth.Forget(name, c.Registry, c.Name)
				n.current.clients.forget(name, c.Registry, c.Name)
				old.forget(name, c.Registry, c.Name) // it may be going too
			}
		}
	}
}

// reload reads everything again. When it returns, what could be used is in force.
func (n *node) reload(ctx context.Context) (admin.Reload, error) {
	done, err := n.change(ctx)
	if err != nil {
		return admin.Reload{}, err
	}
	n.manager.reloading()
	r := n.readAgain()
	n.manager.ready(n.summary())
	done()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	credentials := n.credentials()
	credentials.Renew()
	for _, err := range credentials.Check(ctx) {
		r.Warnings = append(r.Warnings, err.Error())
		r.UnusableSecrets++
	}
	n.log.Info("the configuration was read again", "ok", r.OK(), "needs_restart", r.NeedsRestart)
	return r, nil
}

// readAgain reads all files of the configuration, and says what has become of them.
// Caller is changing the configuration.
func (n *node) readAgain() admin.Reload {
	before := n.cfg
	next, err := n.load()
	if err == nil {
		err = located(n.apply(next), next.Files[""].Path)
	}
	if err == nil {
		n.mainApplied()
	} else {
		n.mainFailed(err)
		if err := n.applyDropIns(n.dropIns()); err != nil {
			n.log.Error("changed organisations cannot be put in force, the old ones stay", "err", err)
		}
	}
	audit := n.openAudit() // whatever the new file is like: a rotation ends with this signal
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.reloadAnswer(before)
	if audit != nil {
		r.Warnings = append(r.Warnings, audit.Error())
	}
	return r
}

// summary is the node in one line, for the service manager. Caller is changing the
// configuration, or nothing does yet.
func (n *node) summary() string {
	var at []string
	for _, f := range n.listeners {
		for _, s := range f.sockets {
			at = append(at, s.String())
		}
	}
	s := fmt.Sprintf("Answering pulls on %s", strings.Join(at, ", "))
	if out := len(n.cfg.Broken); out > 0 {
		s += fmt.Sprintf("; %d of the organisations' files cannot be used", out)
	}
	if n.failure != nil {
		s += "; the main file cannot be used, the one before stays in force"
	}
	return s + " (berth status says more)"
}

// located names the file that err is about.
func located(err error, file string) error {
	if _, ok := errors.AsType[config.Problems](err); ok || err == nil || file == "" {
		return err
	}
	return config.Problems{{File: file, Message: err.Error()}}
}

// load reads the files, and lets the command line win as it did at the start.
func (n *node) load() (*config.Config, error) {
	next, err := n.cfg.Reload()
	if err != nil {
		return nil, err
	}
	if n.override != nil {
		err = n.override(next)
	}
	return next, err
}

// badMain is a main file that cannot be used.
type badMain struct {
	error

	sha256 string // whoever wrote it looks for it
}

func (n *node) mainApplied() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.read, n.failure = n.now(), nil
	n.config.applied(n.read)
	for _, key := range n.started.NeedsRestart(n.cfg) {
		n.log.Warn("a key has changed that takes effect only at the next start", "key", key)
	}
}

// mainFailed leaves the old main file in force.
func (n *node) mainFailed(err error) {
	bad := &badMain{err, n.hashFile(n.cfg.Files[""].Path)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failure = bad
	n.config.failed()
	for _, line := range linesOf(err) {
		n.log.Error("the configuration cannot be used, the old one stays", "err", line)
	}
}

// applyDropIns reads the drop-ins called names again, as far as they have changed. On
// an error the ones before stay in force. Caller is changing the configuration.
func (n *node) applyDropIns(names []string) error {
	next := new(*n.cfg)
	next.Files = maps.Clone(n.cfg.Files)
	next.OrganisationsDirectory = dropInFolder(n.cfg) // the default one may have just been made
	var changed []string
	for _, name := range names {
		if stamp, as := n.readAs(next, name); as {
			file := next.Files[name]
			file.Stamp = stamp
			next.Files[name] = file
		} else {
			changed = append(changed, name)
		}
	}
	if len(changed) > 0 {
		next = next.ReloadOrganisations(changed...)
	}
	if !slices.ContainsFunc(changed, func(name string) bool { return !isAsBroken(next, n.cfg, name) }) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.cfg = next // it is known which files they are now
		return nil
	}
	return n.apply(next)
}

// isAsBroken says that nothing has become of reading a drop-in once more.
func isAsBroken(cfg, before *config.Config, name string) bool {
	err, was := cfg.Broken[name], before.Broken[name]
	return err != nil && was != nil && err.Error() == was.Error() && cfg.Files[name].Is(before.Files[name])
}

// readAs says that a drop-in was good when it was read, and has the same content now,
// and which file that is in.
func (n *node) readAs(cfg *config.Config, name string) (stamp fileid.Stamp, as bool) {
	f, there := cfg.Files[name]
	if _, broken := cfg.Broken[name]; !there || broken {
		return fileid.Stamp{}, false
	}
	o := cfg.Organisations[name]
	stamp, err := hung.Do(n.hung, hung.Limit, f.Path, func() (fileid.Stamp, error) {
		content, stamp, err := fileid.Read(f.Path, maxHashed)
		if err == nil && hashOf(content) != f.SHA256 {
			err = errChanged
		}
		return stamp, err
	})
	return stamp, err == nil && n.mayHold(&o) == nil
}

var errChanged = errors.New("it has changed")

// logChanges logs what became of the organisations, and warnings that are new.
func (n *node) logChanges(before *config.Config) {
	if before == nil {
		before = &config.Config{}
	}
	for _, w := range n.cfg.Warnings {
		if !slices.Contains(before.Warnings, w) {
			n.log.Warn("the configuration is odd", "warning", w)
		}
	}
	names := maps.Clone(n.cfg.Files)
	maps.Copy(names, before.Files)
	maps.DeleteFunc(names, func(name string, _ config.File) bool { return name == "" || n.cfg.Same(name, before) })
	for _, name := range slices.Sorted(maps.Keys(names)) {
		n.logChange(name, before)
	}
}

func (n *node) logChange(name string, before *config.Config) {
	file, there := n.cfg.Files[name]
	err, broken := n.cfg.Broken[name]
	was, wasBroken := before.Broken[name]
	_, goesOn := n.cfg.Organisations[name]
	log := n.log.With(slog.String("organisation", name), slog.String("sha256", file.SHA256))
	switch {
	case broken && (!wasBroken || was.Error() != err.Error()):
		for _, line := range linesOf(err) {
			log.Error("an organisation's configuration cannot be used", "old_one_stays", goesOn, "err", line)
		}
	case broken, !there && goesOn: // said before; in the main file now
	case !there:
		log.Info("an organisation is gone")
	case wasBroken || !before.Files[name].Is(file):
		log.Info("an organisation's configuration is in force")
	}
}
