package pause

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPause_EndsWithWhateverComesFirst(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		done, ended time.Duration // 0: never
		took        time.Duration
		came        bool
		err         error
	}{
		"the time":    {took: time.Minute},
		"the event":   {done: time.Second, ended: 2 * time.Second, took: time.Second, came: true},
		"the context": {done: 2 * time.Second, ended: time.Second, took: time.Second, err: gone},
		"too late":    {done: 2 * time.Minute, ended: 2 * time.Minute, took: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, end := context.WithCancelCause(t.Context())
				defer end(nil)
				done := make(chan struct{})
				if c.ended > 0 {
					defer time.AfterFunc(c.ended, func() { end(gone) }).Stop()
				}
				if c.done > 0 {
					defer time.AfterFunc(c.done, func() { close(done) }).Stop()
				}
				began := time.Now()
				came, err := Until(ctx, done, time.Minute)
				if took := time.Since(began); came != c.came || !errors.Is(err, c.err) || took != c.took {
					t.Errorf("came %v, error %v, after %v", came, err, took)
				}
			})
		})
	}
}
