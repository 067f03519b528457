package node

import (
	"context"
	"time"

	"berth/auth/credential"
)

// secretsTimeout bounds the reading of all secrets beside the pulls. Files take no
// time; helpers are programs, and may ask somebody.
const secretsTimeout = time.Minute

// secretsEvery is how often they are read though no file of theirs has changed: by it
// the time ends for which the one before a secret that is gone serves.
const secretsEvery = 10 * time.Second

// readSecretsSoon has the secrets read, by whoever does that.
func (n *node) readSecretsSoon() {
	select {
	case n.secretsDue <- struct{}{}:
	default: // it is known
	}
}

// readSecrets reads the secrets of all accounts whenever a configuration has come
// into force, a file of theirs has changed, or secretsEvery has gone by: so
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
	ctx, cancel := context.WithTimeout(ctx, secretsTimeout)
	defer cancel()
	_ = n.credentials().Check(ctx) // what is wrong is logged there, and kept for the status
}

// credentials are those of the configuration in force.
func (n *node) credentials() *credential.Table {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.current.credentials
}
