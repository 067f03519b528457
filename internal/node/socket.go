package node

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"berth/internal/admin"
	"berth/internal/config"
)

// listenSocket makes the commands' socket. Without it pulls go on, so trouble is
// only logged.
func (n *node) listenSocket(ctx context.Context) (listening, bool) {
	path := n.started.Admin.Socket
	if path == "" {
		return listening{}, false
	}
	l, err := admin.Listen(ctx, path)
	if err != nil {
		n.log.Error("commands such as berth status do not work: admin.socket cannot be opened", "socket", path, "err", err)
		return listening{}, false
	}
	return listening{Listener: l}, true
}

func (n *node) socketServer() *http.Server {
	return admin.NewServer(admin.Options{
		Reload:   func(ctx context.Context) (admin.Reload, error) { return n.reload(ctx), nil },
		Purge:    n.purge,
		Status:   n.status,
		Failures: n.lastFailures,
		Diagnose: n.diagnose,
		Ready:    n.pulse,
		Images:   n.images,
		Prewarm:  n.prewarm,
		Page:     admin.NewPage(admin.PageOptions{Status: n.status, History: n.history, Full: true}),
		Logger:   n.log,
	})
}

// purge forgets what was proven to an organisation, and the tokens it was given
// by registries. What is under way may end, and proves nothing any more.
func (n *node) purge(_ context.Context, r admin.PurgeRequest) (admin.Purge, error) {
	if !config.ValidOrganisation(r.Organisation) {
		return admin.Purge{}, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%.100q is no organisation", r.Organisation)}
	}
	known := n.forgetTokens(r.Organisation)
	if err := n.cache.Forget(r.Organisation); err != nil {
		return admin.Purge{}, fmt.Errorf("organisation %s: what was proven to it is forgotten until the next start, but stays on disk: %w: purge again when that is mended", r.Organisation, err)
	}
	if !known {
		// What an organisation that was taken out left behind is gone all the same.
		return admin.Purge{}, &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no organisation %s on this node: berth status lists them", r.Organisation)}
	}
	return admin.Purge(r), nil
}

// forgetTokens says whether there is such an organisation.
func (n *node) forgetTokens(organisation string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.desk.lines {
		l.authority.Forget(organisation)
	}
	for _, r := range n.retired {
		r.authority.Forget(organisation)
	}
	return knows(n.cfg, organisation)
}

// status is the node as it is now.
func (n *node) status(context.Context) (admin.Status, error) {
	folder, fills := n.cacheOf(), n.fillsOf()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	s := admin.Status{
		Version: n.version, PID: os.Getpid(), Started: n.start, Now: now, UptimeSeconds: int64(now.Sub(n.start) / time.Second),
		Configuration: admin.Configuration{Reload: n.answer(n.cfg), Applied: n.read},
		Pulls:         n.pullsOf(), Cache: folder, Accounts: n.accountsOf(),
		Troubled: n.troubled(), Fills: fills, Clients: n.clients(), Failures: []admin.Failure{},
	}
	kept := n.failures.All(time.Time{})
	for i := range kept[:min(len(kept), shownFailures)] {
		s.Failures = append(s.Failures, shownFailure(&kept[i]))
	}
	s.Configuration.Organisations = append(s.Configuration.Organisations, n.inMainFile()...)
	slices.SortFunc(s.Configuration.Organisations, func(a, b admin.File) int { return strings.Compare(a.Organisation, b.Organisation) })
	for i, f := range n.fronts {
		s.Listeners = append(s.Listeners, f.status(&n.desk.settings[i]))
	}
	return s, nil
}

// inMainFile are the organisations that have no file of their own. Caller holds mu.
func (n *node) inMainFile() (all []admin.File) {
	for name, o := range n.cfg.Organisations {
		if _, ok := n.cfg.Files[name]; !ok && o.File == "" {
			all = append(all, admin.File{Organisation: name, Path: n.cfg.Files[""].Path, State: admin.Applied})
		}
	}
	return all
}

// status is a front with the settings that are in force there.
func (f *front) status(l *config.Listener) admin.Listener {
	shown := admin.Listener{
		Address: f.address.String(), Sockets: []string{}, Callers: string(l.Callers),
		Organisation: l.Organisation, Registry: l.Registry,
		OrganisationInName: string(l.OrganisationInName), Names: l.Names,
	}
	for _, s := range f.sockets {
		shown.Sockets = append(shown.Sockets, s.String())
	}
	if shown.TLS = f.cert != nil; shown.TLS {
		shown.CertificateEnds = new(f.cert.ends())
	}
	return shown
}
