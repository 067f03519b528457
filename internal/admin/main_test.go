package admin

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == asOther {
		os.Exit(otherUser(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}
