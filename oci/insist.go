package oci

import "context"

type insistKey struct{}

// Insist lets what is asked with ctx go out although a limit that is remembered would
// stop it. may is called when it comes to that, and decides.
func Insist(ctx context.Context, may func() bool) context.Context {
	return context.WithValue(ctx, insistKey{}, may)
}

// Insists reports whether what is asked with ctx goes out past a limit that is
// remembered.
func Insists(ctx context.Context) bool {
	may, ok := ctx.Value(insistKey{}).(func() bool)
	return ok && may()
}
