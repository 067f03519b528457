package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/admin"
	"berth/internal/ocitest"
)

// anyFolder is a home whose cache folder is in some state, and images to pull.
type anyFolder struct {
	*home

	hub    *ocitest.Registry
	images []ocitest.Pushed
}

func newAnyFolder(t *testing.T) *anyFolder {
	t.Helper()
	f := &anyFolder{home: newHome(t), hub: ocitest.New(t, ocitest.Options{})}
	f.socket = filepath.Join(f.dir, "admin.sock")
	for i := range 8 {
		f.images = append(f.images, f.hub.AddImage("library/app", fmt.Sprint(i), ocitest.Image{LayerBytes: [][]byte{ocitest.Compressed(uint64(i), 2<<20)}, Seed: uint64(i)}))
	}
	f.registry("docker.io", f.hub)
	return f
}

// pull pulls the image, and says whether its layer was kept before: then the registry sends
// nothing of it or, where nothing could be noted of that, two pieces.
func (f *anyFolder) pull(n *running, i int) (kept bool) {
	f.t.Helper()
	f.hub.Forget()
	f.nobody(n).mustPull("app", f.images[i], "")
	return f.hub.BlobBytes(f.images[i].Platforms[0].Layers[0]) <= 256<<10
}

// mustKeep wants what is pulled to be kept.
func (f *anyFolder) mustKeep(n *running, i int) {
	f.t.Helper()
	f.pull(n, i)
	if !f.pull(n, i) {
		f.t.Errorf("image %d is fetched again:\n%s", i, n.troubles())
	}
}

// status is what the commands say, for programs and for people.
func (f *anyFolder) status() (s admin.Status, text string) {
	f.t.Helper()
	path, err := exec.LookPath("berth")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, args := range [][]string{{"--json"}, nil} {
		out, err := exec.CommandContext(soon(f.t), path, append([]string{"status", "--socket", f.socket}, args...)...).CombinedOutput()
		if err == nil && args != nil {
			err = json.Unmarshal(out, &s)
		}
		if err != nil {
			f.t.Fatalf("%v: %s", err, out)
		}
		text = string(out)
	}
	return s, text
}

// mustSay wants the status, for people and programs, and the page to say that pulls
// go past the disk, and why.
func (f *anyFolder) mustSay(n *running, reason, text string) {
	f.t.Helper()
	s, shown := f.status()
	if s.Cache.PastDisk == nil || s.Cache.PastDisk.Reason != reason {
		f.t.Errorf("the status for programs: %+v, want %s", s.Cache.PastDisk, reason)
	}
	page := f.client(n.admin).get("/")
	for what, said := range map[string]string{"the status": shown, "the page": strings.ReplaceAll(string(page.body), "&#39;", "'")} {
		if !strings.Contains(said, text) {
			f.t.Errorf("%s does not say %q:\n%s", what, text, said)
		}
	}
}

// mustSayNothing wants none of them to.
func (f *anyFolder) mustSayNothing(n *running) {
	f.t.Helper()
	if s, shown := f.status(); s.Cache.PastDisk != nil || s.Cache.Unwritable || strings.Contains(shown, "past the disk") {
		f.t.Errorf("%+v\n%s", s.Cache.PastDisk, shown)
	}
	if w := n.sample("berth_cache_writable"); w != 1 {
		f.t.Errorf("writable: %v", w)
	}
}

// said counts log lines of one level with the text.
func (n *running) said(level, text string) (count int) {
	for _, line := range n.log.Lines() {
		if line["level"] == level && strings.Contains(fmt.Sprint(line["msg"]), text) {
			count++
		}
	}
	return count
}

// The kernel refuses what some filesystem does not know: pulls succeed, and all of
// these do no harm to what is kept, but a share of a disk of unknown size.
func TestCacheFolder_RefusesACall(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		calls, size, warned string
		kept                bool
	}{
		"no hard links":          {"linkat=EPERM", "4GiB", "", true},
		"no flock":               {"flock=EOPNOTSUPP", "4GiB", "", true},
		"no locks at all":        {"flock=ENOLCK ofdlock=ENOLCK", "4GiB", "has no locks", true},
		"no sync":                {"fsync=EINVAL fdatasync=EINVAL", "4GiB", "cannot sync", true},
		"no size":                {"statfs=ENOSYS fstatfs=ENOSYS", "4GiB", "", true},
		"a share of no size":     {"statfs=ENOSYS fstatfs=ENOSYS", "20%", "", false},
		"none of all these":      {"linkat=EPERM flock=ENOLCK ofdlock=ENOLCK fsync=EINVAL fdatasync=EINVAL statfs=ENOSYS fstatfs=ENOSYS", "4GiB", "has no locks", true},
		"none, and a share of 0": {"linkat=EPERM flock=ENOLCK ofdlock=ENOLCK fsync=EINVAL fdatasync=EINVAL statfs=ENOSYS fstatfs=ENOSYS", "20%", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newAnyFolder(t)
			// Little: else nothing is kept where the machine that runs this is nearly full.
			f.cache = map[string]string{"max_size": c.size, "min_free": "1%"}
			n := f.run(refusedCalls + "=" + c.calls)
			if kept := f.pull(n, 0); kept {
				t.Error("it was there before")
			}
			if kept := f.pull(n, 0); kept != c.kept {
				t.Errorf("kept: %v, want %v:\n%s", kept, c.kept, n.log)
			}
			if !c.kept {
				f.mustSay(n, "unusable", "the cache folder cannot be used")
				if said := n.said("ERROR", "the cache folder cannot be used"); said != 1 {
					t.Errorf("it was said %d times:\n%s", said, n.log)
				}
				return
			}
			if said := n.said("WARN", c.warned); c.warned != "" && said != 1 {
				t.Errorf("it was said %d times:\n%s", said, n.log)
			}
			f.mustSayNothing(n)
			for _, op := range []string{"sync", "rename", "make"} {
				if failed := n.sample(fmt.Sprintf("berth_cache_errors_total{operation=%q}", op)); failed != 0 {
					t.Errorf("%s failed %v times", op, failed)
				}
			}
			n.stop()
			n = f.run(refusedCalls + "=" + c.calls) // with what it left
			if !f.pull(n, 0) {
				t.Errorf("after a restart it is fetched again:\n%s", n.log)
			}
		})
	}
}

// Without any lock a second berth is kept away all the same, and no longer than the
// first one lives.
func TestCacheFolder_OneProcessWithoutLocks(t *testing.T) {
	t.Parallel()
	f := newAnyFolder(t)
	calls := refusedCalls + "=flock=ENOLCK ofdlock=ENOLCK"
	n := f.run(calls)
	code, stderr := ended(t, []string{calls}, "serve", "--config", f.config())
	if code != exitFailed || !strings.Contains(stderr, f.cacheDir()) || !strings.Contains(stderr, "--cache") {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
	n.kill()
	f.mustKeep(f.run(calls), 0)
}

// A folder that cannot be used at the start, whatever is in its place: pulls go past
// the disk, which is said once, and when it can be used it is, without a restart.
func TestCacheFolder_CannotBeUsedAtFirst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, f *anyFolder) (mend func() error)
	}{
		"a file in its place": {func(t *testing.T, f *anyFolder) func() error {
			f.write(f.cacheDir(), "x")
			return func() error { return os.Remove(f.cacheDir()) }
		}},
		"a file above": {func(t *testing.T, f *anyFolder) func() error {
			above := filepath.Join(f.dir, "above")
			f.write(above, "x")
			f.cacheAt = filepath.Join(above, "cache")
			return func() error { return os.Remove(above) }
		}},
		"a link to nowhere": {func(t *testing.T, f *anyFolder) func() error {
			nowhere := filepath.Join(f.dir, "nowhere")
			if err := os.Symlink(nowhere, f.cacheDir()); err != nil {
				t.Fatal(err)
			}
			return func() error { return os.Mkdir(nowhere, 0o700) }
		}},
		"read-only and empty": {func(t *testing.T, f *anyFolder) func() error {
			f.mount("size=64m")
			return readOnly(t, f.cacheDir())
		}},
		"missing, below what is read-only": {func(t *testing.T, f *anyFolder) func() error {
			point := f.cacheDir()
			f.mount("size=64m")
			f.cacheAt = filepath.Join(point, "deep", "cache")
			return readOnly(t, point)
		}},
		"missing, below a read-only bind mount": {func(t *testing.T, f *anyFolder) func() error {
			point := filepath.Join(f.dir, "point")
			if err := os.Mkdir(point, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(point, point, "", unix.MS_BIND, ""); err != nil {
				t.Skip("cannot mount:", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
			f.cacheAt = filepath.Join(point, "cache")
			if err := unix.Mount("", point, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Skip("cannot make it read-only:", err)
			}
			return func() error { return unix.Mount("", point, "", unix.MS_BIND|unix.MS_REMOUNT, "") }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newAnyFolder(t)
			mend := c.spoil(t, f)
			n := f.run()
			for range 2 {
				if f.pull(n, 0) {
					t.Error("it is kept")
				}
			}
			f.mustSay(n, "unusable", "the cache folder cannot be used: pulls go past the disk")
			if w, past := n.sample("berth_cache_writable"), n.sample("berth_disk_bypass_total"); w != 0 || past <= 0 {
				t.Errorf("writable: %v; %v requests went past the disk", w, past)
			}
			if said := n.said("ERROR", ""); said != 1 {
				t.Errorf("%d errors:\n%s", said, n.log)
			}
			if err := mend(); err != nil {
				t.Fatal(err)
			}
			n.await("it is used again", func() bool { return n.said("INFO", "the cache folder can be used again") == 1 })
			f.mustKeep(n, 1)
			f.mustSayNothing(n)
		})
	}
}

// readOnly makes the mount at point read-only.
func readOnly(t *testing.T, point string) (undo func() error) {
	t.Helper()
	if err := unix.Mount("", point, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skip("cannot make a filesystem read-only:", err)
	}
	return func() error { return unix.Mount("", point, "", unix.MS_REMOUNT, "") }
}

// The folder is taken away under a berth that runs: every pull succeeds, nothing is
// written where a filesystem was mounted, and what comes back is used again.
func TestCacheFolder_TakenAway(t *testing.T) {
	t.Parallel()
	empty := func(t *testing.T, dir string) {
		all, err := os.ReadDir(dir)
		for _, e := range all {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, take := range map[string]func(t *testing.T, dir string){
		"emptied": empty,
		"removed": func(t *testing.T, dir string) { empty(t, dir); _ = os.Remove(dir) }, // which may be a mount point
	} {
		for _, mounted := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", mounted: ", mounted), func(t *testing.T) {
				t.Parallel()
				f := newAnyFolder(t)
				if mounted {
					f.mount("size=64m")
				}
				n := f.run()
				f.mustKeep(n, 0)
				take(t, f.cacheDir())
				f.mustKeep(n, 0)
				f.mustKeep(n, 1)
				f.mustSayNothing(n)
			})
		}
	}
	t.Run("unmounted", func(t *testing.T) {
		t.Parallel()
		f := newAnyFolder(t)
		f.mount("size=64m")
		layer := f.images[1].Platforms[0].Layers[0]
		n := f.run()
		f.mustKeep(n, 0)
		slow := f.hub.Inject(ocitest.Match{Digest: layer}, 0, ocitest.Slow(1<<20))
		begun := make(chan error, 1)
		go func() {
			_, err := f.nobody(n).pull("app", "1", "")
			begun <- err
		}()
		if err := f.hub.WaitSent(soon(t), ocitest.Match{Digest: layer}, 1<<20); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(f.cacheDir(), unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		slow.Remove()
		if err := <-begun; err != nil {
			t.Errorf("what had begun: %v", err)
		}
		for i := range f.images {
			if f.pull(n, i) {
				t.Errorf("image %d came from somewhere", i)
			}
		}
		if files := f.files(); len(files) > 0 {
			t.Errorf("below the mount point: %v", files)
		}
		if all, err := os.ReadDir(f.cacheDir()); err != nil || len(all) > 0 {
			t.Errorf("below the mount point: %v, %v", all, err)
		}
		f.mustSay(n, "unusable", "the cache folder cannot be used")
		if _, text := f.status(); !strings.Contains(text, "mount it again") {
			t.Errorf("it does not say what to do:\n%s", text)
		}
		if said := n.said("ERROR", ""); said != 1 {
			t.Errorf("%d errors:\n%s", said, n.log)
		}
		f.mount("size=64m")
		n.await("it is used again", func() bool { return n.said("INFO", "the cache folder can be used again") == 1 })
		f.mustKeep(n, 2)
		f.mustSayNothing(n)
	})
	t.Run("another disk is mounted over it", func(t *testing.T) {
		t.Parallel()
		f := newAnyFolder(t)
		n := f.run()
		f.mustKeep(n, 0)
		f.mount("size=64m")
		f.mustKeep(n, 1)
		if len(f.kept(f.images[1].Digest.Encoded())) == 0 {
			t.Error("it is not on the new disk")
		}
		f.mustSayNothing(n)
	})
}

// Others have filled the disk: pulls succeed, nothing that is kept goes for it, and
// why is said until there is room.
func TestCacheFolder_FullOfOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options string
		fill    func(dir string) error
		text    string
	}{
		"bytes": {"size=64m", func(dir string) error {
			err := os.WriteFile(filepath.Join(dir, "others"), make([]byte, 64<<20), 0o600)
			if errors.Is(err, syscall.ENOSPC) {
				return nil
			}
			return fmt.Errorf("it is not full: %w", err)
		}, "full of what is not the cache's"},
		"inodes": {"size=64m,nr_inodes=64", func(dir string) error {
			for i := range 100 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("other", i)), nil, 0o600); errors.Is(err, syscall.ENOSPC) {
					return nil
				}
			}
			return errors.New("it is not full")
		}, "its inodes are used up"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newAnyFolder(t)
			f.mount(c.options)
			f.cache = map[string]string{"max_size": "90%", "min_free": "5%"}
			n := f.serve() // with a clock that can be put forward
			f.mustKeep(n, 0)
			f.mustSayNothing(n)
			kept := n.sample("berth_cache_objects")
			if err := c.fill(f.cacheDir()); err != nil {
				t.Fatal(err)
			}
			for i := range f.images[1:] {
				if f.pull(n, 1+i) {
					t.Error("it is kept")
				}
			}
			if !f.pull(n, 0) || n.sample("berth_cache_objects") != kept || n.sample("berth_cache_evictions_total") != 0 {
				t.Errorf("%v of %v are left: it went in vain", n.sample("berth_cache_objects"), kept)
			}
			f.mustSay(n, name, c.text)
			if said := n.said("WARN", "a download goes past the disk"); said != 1 {
				t.Errorf("it was said %d times:\n%s", said, n.log)
			}
			others, err := filepath.Glob(filepath.Join(f.cacheDir(), "other*"))
			for _, path := range others {
				err = errors.Join(err, os.Remove(path))
			}
			if err != nil {
				t.Fatal(err)
			}
			f.clock.forward(20 * time.Second) // it rests for a while
			f.mustKeep(n, 1)
			f.mustSayNothing(n)
		})
	}
}

// What is larger than all that may be kept always goes past the disk, and berth says so.
func TestCacheFolder_ImageLargerThanTheLimit(t *testing.T) {
	t.Parallel()
	f := newAnyFolder(t)
	f.cache["max_size"] = "1MiB"
	n := f.run()
	for range 2 {
		if f.pull(n, 0) {
			t.Error("it is kept")
		}
	}
	f.mustSay(n, "too_large", "larger than all that may be kept: 2.0 MiB where the limit is 1.0 MiB")
	if w := n.sample("berth_cache_writable"); w != 1 {
		t.Errorf("the disk works: %v", w)
	}
}

// Real filesystems that lack this or that.
func TestCacheFolder_OnFAT(t *testing.T) {
	t.Parallel()
	f := newAnyFolder(t)
	image := filepath.Join(t.TempDir(), "disk.img")
	file, err := os.Create(image)
	if err == nil {
		err = errors.Join(file.Truncate(128<<20), file.Close(), os.MkdirAll(f.cacheDir(), 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"/usr/sbin/mkfs.vfat", image}, {"mount", "-o", "loop", image, f.cacheDir()}} {
		if out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", c[0], err, out)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(f.cacheDir(), unix.MNT_DETACH) })
	f.cache = map[string]string{"max_size": "90%", "min_free": "5%"}
	n := f.run()
	f.mustKeep(n, 0)
	f.mustSayNothing(n)
	n.stop()
	if !f.pull(f.run(), 0) {
		t.Error("after a restart it is fetched again")
	}
}

// The state folder may be as bad as the cache's.
func TestStateFolder_CannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, f *anyFolder, dir string)
		calls string
	}{
		"missing":             {func(*testing.T, *anyFolder, string) {}, ""},
		"a file in its place": {func(_ *testing.T, f *anyFolder, dir string) { f.write(dir, "x") }, ""},
		"read-only": {func(t *testing.T, _ *anyFolder, dir string) {
			err := os.Mkdir(dir, 0o700)
			if err == nil {
				err = unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, "size=1m")
			}
			if err != nil {
				t.Skip("cannot mount:", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		}, ""},
		"without hard links and sync": {func(t *testing.T, _ *anyFolder, dir string) {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "linkat=EPERM fsync=EINVAL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newAnyFolder(t)
			dir := filepath.Join(f.dir, "state")
			c.spoil(t, f, dir)
			n := f.run("STATE_DIRECTORY="+dir, refusedCalls+"="+c.calls)
			f.mustKeep(n, 0)
			if _, err := os.Stat(filepath.Join(dir, "key")); (c.calls != "") != (err == nil) {
				t.Errorf("the key: %v", err)
			}
			if said := n.said("WARN", "the fingerprint key is in memory only"); (said == 1) != (c.calls == "") {
				t.Errorf("it was said %d times:\n%s", said, n.log)
			}
		})
	}
}

// A folder that was something else before is the operator's to decide about.
func TestCacheFolder_ThatIsNone(t *testing.T) {
	t.Parallel()
	f := newAnyFolder(t)
	if err := os.MkdirAll(filepath.Join(f.cacheDir(), "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	code, stderr := ended(t, nil, "serve", "--config", f.config())
	if code != exitFailed || !strings.Contains(stderr, "choose another") {
		t.Errorf("exit code %d after %v:\n%s", code, time.Since(begin), stderr)
	}
	if _, err := os.Stat(filepath.Join(f.cacheDir(), "CACHEDIR.TAG")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made ours: %v", err)
	}
}
