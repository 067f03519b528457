package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// probeTimeout bounds one probe.
const probeTimeout = 5 * time.Second

// newProbePath is known to this process alone, so that nobody else can ask for it.
func newProbePath() string { return "/" + rand.Text() }

// probe says whether pulls are answered: it connects to every socket as a client
// does, and gets an answer from where pulls begin, with the cache's lock passed.
// No registry is asked, and nothing is logged or counted. It is done once for all who
// want to know, so that it takes one connection however many they are.
func (n *node) probe(ctx context.Context) error {
	_, err := n.probes.Do(ctx, struct{}{}, func(ctx context.Context) (struct{}, error) {
		for _, f := range n.listeners {
			for _, at := range f.sockets {
				if err := f.probe(ctx, at); err != nil {
					return struct{}{}, fmt.Errorf("no answer on %s: %w", at, err)
				}
			}
		}
		return struct{}{}, nil
	})
	return err
}

// probe asks on one socket.
func (f *listener) probe(ctx context.Context, at net.Addr) error {
	scheme := "http"
	if f.cert != nil {
		scheme = "https"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, scheme+"://localhost"+f.probePath, http.NoBody)
	if err != nil {
		return err
	}
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return f.connections.Dial(ctx, at)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // G402: it asks itself, and sends nothing
	}
	a, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusNoContent {
		return errors.New(a.Status)
	}
	return nil
}

// feedWatchdog keeps the service manager's watchdog quiet for as long as pulls are
// answered. It gives three chances: a machine that swaps is slow, not dead.
func (n *node) feedWatchdog(ctx context.Context) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the service manager's watchdog cannot be served", "err", err)
	}
	if limit == 0 {
		return
	}
	ticks := time.NewTicker(limit / 3)
	defer ticks.Stop()
	for {
		if err := n.probe(ctx); err == nil {
			n.manager.alive()
		} else if ctx.Err() == nil {
			n.log.Error("pulls are not answered: the service manager will start this process again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}
