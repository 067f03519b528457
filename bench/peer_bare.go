package main

import (
	"context"
	"os"
	"os/exec"
)

// bareRecipe is this program, as serveBare. Its files are put beside it.
func bareRecipe() recipe {
	return recipe{
		name: "bare",
		find: func(context.Context, *bench) (string, error) { return os.Executable() },
		command: func(ctx context.Context, program, dir, address string, _ origin) (*exec.Cmd, error) {
			return exec.CommandContext(ctx, program, "bare", address, dir), nil //nolint:gosec // G204: ourselves
		},
	}
}
