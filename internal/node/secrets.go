package node

import (
	"context"
	"time"
)

// secretsTimeout bounds the reading of all secrets beside the pulls. Files take no
// time; helpers are programs, and may ask somebody.
const secretsTimeout = time.Minute

// readSecrets reads the secrets of all accounts whenever a configuration has come
// into force, something may have changed on the disk, or pollEvery has gone by: so
// one that is missing, empty or not ours to read shows in the log, the metrics and
// the status before a pull fails by it, and ends the account without a pull.
func (n *node) readSecrets(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.secretsDue:
			n.readAll(ctx)
		}
	}
}

func (n *node) readAll(ctx context.Context) {
	n.mu.Lock()
	credentials := n.desk.credentials
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, secretsTimeout)
	defer cancel()
	_ = credentials.Check(ctx) // what is wrong is logged there, and kept for the status
}
