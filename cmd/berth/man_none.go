//go:build !man

package main

import "github.com/spf13/cobra"

// addManual adds nothing: the program carries no renderer of manual pages.
func addManual(*cobra.Command) {}
