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

type rightKey struct{}

// WithRight is ctx for what is fetched by somebody whose right to it was not shown. Where
// it would have to wait for a limit of this node's, ask asks for the right first, and its
// error is the answer: whatever is kept here is asked about so, and how long the wait is would
// tell whoever has no right that it is not kept.
func WithRight(ctx context.Context, ask func(context.Context) error) context.Context {
	return context.WithValue(ctx, rightKey{}, ask)
}

// RightOf is what WithRight was told; nil: the right was shown, or this is the question.
func RightOf(ctx context.Context) func(context.Context) error {
	ask, _ := ctx.Value(rightKey{}).(func(context.Context) error)
	return ask
}
