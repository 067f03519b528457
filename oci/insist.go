package oci

import "context"

type questionKey struct{}

// Question is one about a right, as a Source that puts it off for a limit of ours tells
// it: such a limit must neither keep the registry's no away, nor look like the registry's
// silence. Both funcs may be called more than once, from one goroutine after another.
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
