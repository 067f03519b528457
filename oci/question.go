package oci

import "context"

type questionKey struct{}

// Question hears what becomes of a question about a right while it waits for a rate limit
// or a slot of this node's. Such a limit must not keep the registry's refusal away, and the
// wait must not look like the registry's silence: see S6 in doc/security.md.
// Both funcs may be called more than once, and never at the same time.
type Question struct {
	// Stopped is called where the question would wait, or be refused without being put.
	// If it returns true, it goes out all the same.
	Stopped func() (goesOut bool)
	// Sent is called when the question has waited, and goes out.
	Sent func()
}

// WithQuestion is ctx for what asks q.
func WithQuestion(ctx context.Context, q Question) context.Context {
	return context.WithValue(ctx, questionKey{}, q)
}

// Insists reports whether what is asked with ctx goes out past a limit that is ours.
func Insists(ctx context.Context) bool {
	q, ok := ctx.Value(questionKey{}).(Question)
	return ok && q.Stopped()
}

// Sent notes that what is asked with ctx goes out.
func Sent(ctx context.Context) {
	if q, ok := ctx.Value(questionKey{}).(Question); ok {
		q.Sent()
	}
}
