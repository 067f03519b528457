package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// berthRecipe is berth as it is released, with its defaults: who may read what is
// checked, requests are logged. An organisation pulls with an account of its own.
func berthRecipe(name, built string) recipe {
	return recipe{name: name, prefix: "upstream.example/", command: berthCommand,
		find: func(ctx context.Context, b *bench) (string, error) {
			if built != "" {
				return filepath.Abs(built)
			}
			program := filepath.Join(b.dir, "berth")
			c := exec.CommandContext(ctx, "go", "build", "-tags=grpcnotrace", "-trimpath", "-ldflags=-s -w", "-o", program, "./cmd/berth") //nolint:gosec // G204: a file of ours
			c.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := c.CombinedOutput(); err != nil {
				return "", fmt.Errorf("building berth: %w: %s", err, out)
			}
			return program, nil
		}}
}

func berthCommand(ctx context.Context, program, dir, address string, at origin) (*exec.Cmd, error) {
	ca := ""
	if at.caFile != "" {
		ca = "    ca_file: " + at.caFile + "\n"
	}
	if err := write(filepath.Join(dir, "secret"), upstreamPassword+"\n"); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "berth.yaml")
	c := exec.CommandContext(ctx, program, "--config", config, "serve") //nolint:gosec // G204: what find gave
	return c, write(config, fmt.Sprintf(`listeners:
  - {address: "%s", organisation: acme}
registries:
  upstream.example:
    type: generic
    endpoint: %s
%sorganisations:
  acme:
    credentials:
      - {name: ci, registry: upstream.example, username: %s, password_file: secret}
cache: {directory: %s}
admin: {address: "127.0.0.1:0", socket: %s}
`, address, at.url, ca, upstreamUser, filepath.Join(dir, "cache"), filepath.Join(dir, "admin.sock")))
}
