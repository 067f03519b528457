package upstream

import (
	"context"
	"errors"
	"time"

	"github.com/sethvargo/go-retry"
)

const (
	// maxUnusable is how often a call is made again for an answer that cannot be used.
	maxUnusable = 2
	// unusableWithin is how long after its start a call may be made again, so that the
	// client has its header in time.
	unusableWithin = 11 * time.Second
)

// errUnusable marks an answer that says 2xx and is not what was asked for: a body that
// breaks off, other bytes, another range, a web page. Nothing of it has been
// handed on.
var errUnusable = errors.New("an odd answer")

// retryUnusable calls again when an answer could not be used. What a status says was tried
// again nearer to the wire (sender.send), which knows nothing of what a body has to be.
func retryUnusable[T any](ctx context.Context, r *Registry, call func() (T, error)) (answer T, err error) {
	start := time.Now()
	waits := retry.WithMaxRetries(maxUnusable, retry.WithJitterPercent(50, retry.NewExponential(r.pause)))
	backoff := retry.BackoffFunc(func() (time.Duration, bool) {
		wait, stop := waits.Next()
		if _, trouble := r.origin.trouble(); stop || trouble || time.Since(start)+wait > unusableWithin || !r.budgets.spend(ctx) {
			return 0, true
		}
		r.metrics.retry(r.label, classOf(err))
		return wait, false
	})
	ended := retry.Do(ctx, backoff, func(context.Context) error {
		if answer, err = call(); errors.Is(err, errUnusable) || errors.Is(err, errStall) || errors.Is(err, errTooSlow) {
			return retry.RetryableError(err)
		}
		return nil
	})
	if err == nil {
		err = ended // ctx had ended before the first call
	}
	return answer, err
}
