package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/valkey-io/valkey-go"

	"berth/fleet/gate"
	"berth/fleet/seal"
	"berth/internal/secret"
)

const (
	// timeout bounds one operation, and dialling.
	timeout = time.Second
	// buffer is what a connection reads and writes at once; the library would take
	// half a megabyte for each.
	buffer = 32 << 10
)

// Options say where the coordinator is.
type Options struct {
	Address string // host:port
	// Node is the user's name and the node's name in the fleet.
	Node string
	// Zone is which nodes share a bucket.
	Zone string
	// Password is asked at each connection, so that a new one is in use at once.
	Password func() (secret.Text, error)
	TLS      *tls.Config // nil: without
	Metrics  *gate.Metrics
}

// Coordinator is safe for concurrent use.
type Coordinator struct {
	options valkey.ClientOption
	node    string
	zone    string
	gate    *gate.Gate

	mu         sync.Mutex
	client     valkey.Client
	connecting chan struct{} // closed when the first connection has come to something
	closed     bool
}

// New makes one. It connects when it is first asked something.
func New(o Options) (*Coordinator, error) {
	if err := seal.CheckName(o.Node); err != nil {
		return nil, fmt.Errorf("node name %q: %w", o.Node, err)
	}
	if err := seal.CheckName(o.Zone); err != nil {
		return nil, fmt.Errorf("zone %q: %w", o.Zone, err)
	}
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return nil, fmt.Errorf("the coordinator's address: %w", err)
	}
	c := &Coordinator{node: o.Node, zone: o.Zone, options: valkey.ClientOption{
		InitAddress: []string{o.Address}, ForceSingleClient: true, TLSConfig: o.TLS,
		Dialer:            net.Dialer{Timeout: timeout, KeepAlive: 5 * time.Second},
		ConnWriteTimeout:  2 * timeout,
		PipelineMultiplex: -1, // one connection
		// Otherwise a command that is alone on its connection ignores the end of its
		// caller's context.
		AlwaysPipelining:   true,
		ReadBufferEachConn: buffer, WriteBufferEachConn: buffer, RingScaleEachConn: 8,
		DisableCache: true, DisableRetry: true, ClientSetInfo: valkey.DisableClientSetInfo,
		AuthCredentialsFn: func(valkey.AuthCredentialsContext) (valkey.AuthCredentials, error) {
			if o.Password == nil {
				return valkey.AuthCredentials{}, nil
			}
			p, err := o.Password()
			return valkey.AuthCredentials{Username: o.Node, Password: p.Reveal()}, err
		},
	}}
	c.gate = gate.New("coordinator", o.Metrics, func(ctx context.Context) error {
		_, err := c.ask(ctx, func(b valkey.Builder) valkey.Commands { return valkey.Commands{b.Ping().Build()} })
		return err
	})
	return c, nil
}

// Away is why the coordinator is not asked, or nil.
func (c *Coordinator) Away() error { return c.gate.Away() }

// Close ends its connection. Nothing is to be asked any more.
func (c *Coordinator) Close() {
	c.gate.Close()
	c.mu.Lock()
	c.closed = true
	connecting := c.connecting
	c.mu.Unlock()
	if connecting != nil {
		<-connecting
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		c.client.Close()
	}
}

// connect returns the client. The first to come makes it; it reconnects by itself
// after that.
func (c *Coordinator) connect(ctx context.Context) (valkey.Client, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, valkey.ErrClosing
	}
	if c.client != nil {
		defer c.mu.Unlock()
		return c.client, nil
	}
	if c.connecting == nil {
		c.connecting = make(chan struct{})
		go c.make(c.connecting) // it has limits of its own, and others wait for it too
	}
	connecting := c.connecting
	c.mu.Unlock()
	select {
	case <-connecting:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		return nil, errors.New("it cannot be reached")
	}
	return c.client, nil
}

func (c *Coordinator) make(made chan struct{}) {
	client, err := valkey.NewClient(c.options)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(made)
	c.connecting = nil
	if err == nil || client != nil {
		c.client = client // one that did not connect will when it is next asked
	}
}

var errSlow = fmt.Errorf("no answer within %v", timeout)

// ask sends commands in one round trip. An error is the first that is not the absence
// of a key.
func (c *Coordinator) ask(ctx context.Context, commands func(valkey.Builder) valkey.Commands) ([]valkey.ValkeyResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errSlow)
	defer cancel()
	client, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	results := client.DoMulti(ctx, commands(client.B())...)
	for _, r := range results {
		if err := r.Error(); err != nil && !valkey.IsValkeyNil(err) {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
	}
	return results, nil
}

// do sends commands for a caller, unless the gate says that the coordinator is away.
func (c *Coordinator) do(ctx context.Context, what string, commands func(valkey.Builder) valkey.Commands) ([]valkey.ValkeyResult, error) {
	err := c.gate.Enter()
	if err == nil {
		var results []valkey.ValkeyResult
		if results, err = c.ask(ctx, commands); err == nil {
			c.gate.Worked()
			return results, nil
		}
		if !errors.Is(ctx.Err(), context.Canceled) { // whoever left says nothing about the coordinator
			c.gate.Failed(err)
		}
	}
	return nil, fmt.Errorf("coordinator: %s: %w", what, err)
}
