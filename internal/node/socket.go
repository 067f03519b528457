package node

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"berth/internal/admin"
	"berth/internal/config"
)

// listenSocket makes the commands' socket. Without it pulls go on, so trouble is
// only logged, and there is none.
func (n *node) listenSocket(ctx context.Context) net.Listener {
	path := n.started.Admin.Socket
	if path == "" {
		return nil
	}
	l, err := admin.Listen(ctx, path)
	if err != nil {
		n.log.Error("commands such as berth status do not work: admin.socket cannot be opened", "socket", path, "err", err)
		return nil
	}
	return l
}

func (n *node) socketServer() *http.Server {
	return admin.NewServer(admin.Options{
		Reload:   n.reload,
		Purge:    n.purge,
		Remove:   n.remove,
		Status:   n.status,
		Failures: n.lastFailures,
		Canary:   n.canary,
		Diagnose: n.diagnose,
		Ready:    n.probe,
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
		return admin.Purge{}, &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no organisation %s on this node (berth status lists them); whatever was proven to one of that name is forgotten", r.Organisation)}
	}
	return admin.Purge(r), nil
}

// forgetTokens says whether there is such an organisation.
func (n *node) forgetTokens(organisation string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.current.clients {
		l.upstream.Authority().Forget(organisation)
	}
	for _, r := range n.retired {
		r.upstream.Authority().Forget(organisation)
	}
	return knows(n.cfg, organisation)
}
