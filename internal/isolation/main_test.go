// Package isolation_test shows that nothing crosses between organisations: the
// front, callers and credentials, the way upstream and the cache are put
// together as the program does, before real sockets, and everything that comes
// back is looked through.
//
// What the rooms do by themselves is tested there, the program as a process
// beside its commands.
package isolation_test

import (
	"os"
	"testing"

	"berth/internal/ocitest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		live(dir)
	}
	ocitest.Main(m)
}
