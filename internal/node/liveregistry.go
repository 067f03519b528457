package node

import (
	"context"
	"crypto/x509"
	"fmt"

	"berth/auth/credential"
	"berth/internal/registry"
	"berth/oci"
)

// liveRegistry is one registry as a generation serves it: the client that asks it, and
// as whom it is asked on behalf of everyone.
type liveRegistry struct {
	spec        *registry.Spec
	client      *registryClient
	credentials *credential.Table
	hasAccount  bool // this node has an account there
}

func (g *generation) newLiveRegistry(spec *registry.Spec, c *registryClient) *liveRegistry {
	s := &liveRegistry{spec: spec, client: c, credentials: g.credentials}
	s.hasAccount = spec.Organisation == "" && g.cfg.Registries[spec.Name].Credential != nil
	return s
}

// sharedCredential is what those without an account present for repo: this node's
// account there, unless that is of no use now and anonymous_fallback lets public
// images do without it.
func (s *liveRegistry) sharedCredential(ctx context.Context, repo string) (*credential.Credential, error) {
	cred, err := s.credentials.Lookup(ctx, "", "", s.spec.Name, repo)
	if !s.spec.AnonymousFallback || ctx.Err() != nil || s.useless(cred, err) == nil {
		return cred, err
	}
	return nil, nil //nolint:nilnil // nobody is a credential too: the shared principal
}

// useless is why an account that was looked up is of no use; nil: it is not.
func (s *liveRegistry) useless(cred *credential.Credential, err error) *oci.Error {
	if err != nil {
		return oci.AsError(err)
	}
	return s.client.upstream.Authority().Refusal(cred)
}

// without says why the shared principal does without this node's account; nil where it
// has none, or cannot do without.
func (s *liveRegistry) without() func(repo string) *oci.Error {
	if !s.hasAccount || !s.spec.AnonymousFallback {
		return nil
	}
	return func(repo string) *oci.Error {
		return s.useless(s.credentials.Lookup(context.Background(), "", "", s.spec.Name, repo))
	}
}

// maxCAs bounds a ca_file, in bytes: the system's whole store is 200 KiB.
const maxCAs = 4 << 20

// readCAs reads a ca_file; nil where there is none.
func (n *node) readCAs(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := n.readFile(file, maxCAs)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	return pem, nil
}

// pool is what is in a ca_file; nil, which means the system's, for none.
func pool(file string, pem []byte) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	cas := x509.NewCertPool()
	if !cas.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s: there is no certificate in it", file)
	}
	return cas, nil
}
