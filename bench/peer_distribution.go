package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const distributionModule = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"

// distributionRecipe is the CNCF's registry as a pull-through cache, with its
// default settings otherwise.
func distributionRecipe() recipe {
	return recipe{name: "distribution", command: distributionCommand,
		find: func(ctx context.Context, b *bench) (string, error) {
			c := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", distributionModule)
			c.Env = append(os.Environ(), "GOBIN="+b.dir, "CGO_ENABLED=0")
			if out, err := c.CombinedOutput(); err != nil {
				return "", fmt.Errorf("installing %s: %w: %.500s", distributionModule, err, out)
			}
			return filepath.Join(b.dir, "registry"), nil
		}}
}

func distributionCommand(ctx context.Context, program, dir, address string, at origin) (*exec.Cmd, error) {
	config := filepath.Join(dir, "config.yml")
	c := exec.CommandContext(ctx, program, "serve", config) //nolint:gosec // G204: what find gave
	c.Env = os.Environ()
	if at.caFile != "" {
		c.Env = append(c.Env, "SSL_CERT_FILE="+at.caFile)
	}
	return c, write(config, fmt.Sprintf(`version: 0.1
storage:
  filesystem: {rootdirectory: %s}
http: {addr: "%s"}
proxy: {remoteurl: "%s", username: %s, password: %s}
`, filepath.Join(dir, "data"), address, at.url, upstreamUser, upstreamPassword))
}
