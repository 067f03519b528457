package fleet

import (
	"testing"

	"berth/internal/ocitest"
)

func TestMain(m *testing.M) { ocitest.Main(m) }
