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
	// net/http waits half a second before it closes a connection whose request it
	// did not read to the end, which is longer than goleak waits.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}
