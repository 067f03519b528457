//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"runtime"
	"testing"
)

// platform is this machine's, as clients write it.
const platform = "linux/" + runtime.GOARCH

// skopeoClient is skopeo of the distribution: manifests by GET only.
type skopeoClient struct{ path string }

func TestSkopeo(t *testing.T) {
	testPuller(t, (*world).ref, func(t *testing.T, _ *world) puller { return skopeoClient{skopeo.find(t)} })
}

func (c skopeoClient) explains() bool { return true }

func (c skopeoClient) pull(t *testing.T, ref string, as login) ([]string, error) {
	t.Helper()
	dir := tempDir(t, "skopeo")
	from, creds := "--src-creds", "--creds"
	if as.user == "" {
		from, creds = "--src-no-creds=true", "--no-creds=true"
	} else {
		from, creds = from+"="+as.pair(), creds+"="+as.pair()
	}
	_, err := run(t, dir, nil, c.path, "--insecure-policy", "copy", "--src-tls-verify=false", from,
		"docker://"+ref, "dir:"+filepath.Join(dir, "image"))
	if err != nil {
		return nil, err
	}
	manifest, err := run(t, dir, nil, c.path, "inspect", "--raw", "--tls-verify=false", creds, "docker://"+ref)
	sum := sha256.Sum256([]byte(manifest))
	return []string{"sha256:" + hex.EncodeToString(sum[:])}, err
}
