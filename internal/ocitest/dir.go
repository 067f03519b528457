package ocitest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// enoughMemory is what must be free in memory for tests to use it as a disk: containers
// often have 64 MiB there.
const enoughMemory = 4 << 30

// MemoryDir is a folder that is cheap to write to, for tests that write much, or sync, and
// are not about the disk.
func MemoryDir(t testing.TB) string {
	t.Helper()
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || int64(fs.Bavail)*fs.Bsize < enoughMemory {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "berth-test-") //nolint:usetesting // t.TempDir is on the disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
