package upstream

import (
	"testing"

	"go.uber.org/goleak"

	"berth/internal/ocitest"
)

// distribution's handlers have no end for what would send notifications.
func TestMain(m *testing.M) {
	ocitest.Main(m, goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}
