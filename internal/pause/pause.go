// Package pause waits, for a time and no longer than somebody wants the result.
package pause

import (
	"context"
	"time"
)

// For waits for d. The error is why ctx ended first.
func For(ctx context.Context, d time.Duration) error {
	_, err := Until(ctx, nil, d)
	return err
}

// Until waits for done, for d at most, and says whether it came. The error is why ctx
// ended before either.
func Until(ctx context.Context, done <-chan struct{}, d time.Duration) (came bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
