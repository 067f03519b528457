package oci

import "context"

type behalfKey struct{}

// Behalf is for whom a registry is asked, and what about: whose limits it counts
// against, and whom the registry's failures are about.
type Behalf struct {
	// Payer is the organisation that the request counts for; empty: callers without one.
	Payer     string
	Principal Principal
	Repo      string
	// What is the path of the object in Repo.
	What string
}

// OnBehalf is ctx for what is sent on behalf of b. A request that many wait for is on
// behalf of whoever began it.
func OnBehalf(ctx context.Context, b Behalf) context.Context {
	return context.WithValue(ctx, behalfKey{}, b)
}

// BehalfOf is on whose behalf ctx is; the zero Behalf: nobody's.
func BehalfOf(ctx context.Context) Behalf {
	b, _ := ctx.Value(behalfKey{}).(Behalf)
	return b
}

type alongKey struct{}

// Along is ctx for what is asked for several organisations: all says which, at any
// moment. It must return at once.
func Along(ctx context.Context, all func() []string) context.Context {
	return context.WithValue(ctx, alongKey{}, all)
}

// AlongOf is what Along was told; nil: it is for one only.
func AlongOf(ctx context.Context) func() []string {
	all, _ := ctx.Value(alongKey{}).(func() []string)
	return all
}

// MemoryKey is the key of a context's Memory.
type MemoryKey struct{}

// Memory is a share of this node's memory that a request has for what it reads.
type Memory interface {
	// Need waits until there is room for a manifest that is about to be read, unless the
	// request has it already. Where it would wait, before is called first, and an error of
	// that is Need's.
	Need(ctx context.Context, before func() error) error
	// Keep has it last until release, also when the request is over. ok is false where
	// that comes too late, or there is none.
	Keep() (release func(), ok bool)
}

// MemoryOf is the share of a request; nil: it has none.
func MemoryOf(ctx context.Context) Memory {
	m, _ := ctx.Value(MemoryKey{}).(Memory)
	return m
}

// WithMemory is ctx for what is read into m, which may be nil.
func WithMemory(ctx context.Context, m Memory) context.Context {
	if m == nil {
		return ctx
	}
	return context.WithValue(ctx, MemoryKey{}, m)
}
