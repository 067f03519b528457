package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"berth/internal/config"
)

// certificate is a listener's, as it last lay there whole.
type certificate struct {
	files   config.TLS
	current atomic.Pointer[tls.Certificate]
	failed  string // what was wrong with the files last time
}

// newCertificate reads the files. Without a good pair there is none.
func newCertificate(files config.TLS) (*certificate, error) {
	c := &certificate{files: files}
	if err := c.renew(); err != nil {
		return nil, err
	}
	return c, nil
}

// get is for tls.Config.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// ends says when the certificate in use ends.
func (c *certificate) ends() time.Time { return c.current.Load().Leaf.NotAfter }

// errUnchanged says that there was nothing to read.
var errUnchanged = errors.New("unchanged")

// maxPEM bounds a file of a certificate, in bytes: a long chain has a few dozen KiB.
const maxPEM = 1 << 20

// readPair reads a certificate and its key, which nobody else may be able to
// read. In the folder that systemd makes for credentials that is its affair.
func readPair(files config.TLS) (tls.Certificate, error) {
	var none tls.Certificate
	if err := secretFile(files.KeyFile).Check(); err != nil {
		return none, err
	}
	key, err := readBounded(files.KeyFile, maxPEM)
	if err != nil {
		return none, err
	}
	cert, err := readBounded(files.CertFile, maxPEM)
	if err != nil {
		return none, err
	}
	return tls.X509KeyPair(cert, key)
}

// renew reads the files again. A pair that cannot be used, such as a new certificate
// whose key is still to come, leaves the old one in use; its error is given once.
// errUnchanged: there is nothing new. One goroutine at a time may do it.
func (c *certificate) renew() error {
	pair, err := readPair(c.files)
	if err != nil {
		err = fmt.Errorf("certificate %s with key %s: %w", c.files.CertFile, c.files.KeyFile, err)
		if err.Error() == c.failed {
			return fmt.Errorf("%w: %w", errUnchanged, err)
		}
		c.failed = err.Error()
		return err
	}
	c.failed = ""
	if old := c.current.Load(); old != nil && old.Leaf.Equal(pair.Leaf) {
		return errUnchanged
	}
	c.current.Store(&pair)
	return nil
}
