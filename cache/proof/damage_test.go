package proof

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"berth/internal/ocitest"
)

// full makes a file with n proofs of each kind about repositories of acme.
func full(t *testing.T, path string, n int) {
	t.Helper()
	f := open(t, path, Options{})
	for i := range n {
		a, m, k := acme, member, latest
		a.Repo = fmt.Sprint("acme/", i)
		m.Repo, k.Repo = a.Repo, a.Repo
		f.Prove(a, m, time.Now())
		f.SetTag(k, Tag{Digest: digestA, Asked: time.Now()})
	}
	closeFacts(t, f)
}

// A file that is not ours, or not whole, is moved aside. It costs proofs, and
// nothing else: nothing unproven counts, and new proofs are kept.
func TestUnusableFilesAreMovedAside(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "facts.db")
	full(t, whole, 300)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, damageTo := range map[string]func(t *testing.T, path string){
		"text":        write([]byte("this is not a database\n")),
		"zeroes":      write(make([]byte, 1<<20)),
		"noise":       write(noise(1 << 16)),
		"one byte":    write([]byte{1}),
		"cut at page": write(data[:8*4096]),
		"cut in half": write(data[:len(data)/2-100]),
		"meta only":   write(data[:2*4096]),
		"no meta":     write(append(make([]byte, 2*4096), data[2*4096:]...)),
		"a folder": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"of another program": bolt(t, func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("theirs"))
			return err
		}),
		"of a newer version, without what all of them have": bolt(t, func(tx *bbolt.Tx) error {
			if err := create(tx); err != nil {
				return err
			}
			return errors.Join(tx.Bucket([]byte(metaBucket)).Put([]byte("version"), []byte("2")), tx.DeleteBucket([]byte(memberBucket)))
		}),
		"of no version": bolt(t, func(tx *bbolt.Tx) error {
			if err := create(tx); err != nil {
				return err
			}
			return tx.Bucket([]byte(metaBucket)).Delete([]byte("version"))
		}),
		"without a bucket": bolt(t, func(tx *bbolt.Tx) error {
			if err := create(tx); err != nil {
				return err
			}
			return tx.DeleteBucket([]byte(memberBucket))
		}),
		"with a value for a bucket": bolt(t, func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte(metaBucket))
			if err != nil {
				return err
			}
			_, err = b.CreateBucket([]byte("version"))
			return err
		}),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "facts.db")
			for range 2 { // the second time something is aside already
				damageTo(t, path)
				works(t, path)
				if _, err := os.Stat(path + ".damaged"); err != nil {
					t.Errorf("it was not kept: %v", err)
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// However short a file was cut, that shows at the start, not in the middle of a pull.
func TestAFileThatWasCutShort(t *testing.T) {
	whole := filepath.Join(ocitest.MemoryDir(t), "facts.db")
	full(t, whole, 100)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(whole, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var used int64
	err = db.View(func(tx *bbolt.Tx) error {
		used = tx.Size()
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(ocitest.MemoryDir(t), "facts.db")
	for cut := int64(1024); cut < used; cut += 2560 {
		write(data[:cut])(t, path)
		closeFacts(t, open(t, path, Options{}))
		if err := os.Remove(path + ".damaged"); err != nil {
			t.Errorf("cut to %d of %d bytes: %v", cut, used, err)
		}
	}
	write(data[:used])(t, path) // what follows is space that bbolt got ahead of time
	a := acme
	a.Repo = "acme/1"
	wantAccess(t, open(t, path, Options{}), a, Grace)
}

// works checks that proofs can be kept at path, whatever is there.
func works(t *testing.T, path string) {
	t.Helper()
	f := open(t, path, Options{})
	wantAccess(t, f, acme, None)
	f.Prove(acme, member, time.Now())
	wantAccess(t, f, acme, Fresh)
	f.SetTag(latest, Tag{Digest: digestA, Asked: time.Now()})
	closeFacts(t, f)
	f = open(t, path, Options{})
	wantAccess(t, f, acme, Grace)
	wantTag(t, f, latest, digestA, Grace)
	f.Deny(acme)
	wantAccess(t, f, acme, None)
	closeFacts(t, f)
	f = open(t, path, Options{})
	wantAccess(t, f, acme, None)
	closeFacts(t, f)
}

func write(data []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func bolt(t *testing.T, fill func(*bbolt.Tx) error) func(*testing.T, string) {
	t.Helper()
	return func(t *testing.T, path string) {
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(fill); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Empty files are what a crash between making and filling leaves: no damage.
func TestAnEmptyFileIsNew(t *testing.T) {
	for name, make := range map[string]func(*testing.T, string){
		"empty":       write(nil),
		"empty bbolt": bolt(t, func(*bbolt.Tx) error { return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "facts.db")
			make(t, path)
			works(t, path)
			if _, err := os.Stat(path + ".damaged"); err == nil {
				t.Error("it was moved aside")
			}
		})
	}
}

// Damage in the middle shows only when it is read or written over. It may cost
// proofs, never the process, and never gives anyone access.
func TestDamageThatShowsLate(t *testing.T) {
	whole := filepath.Join(ocitest.MemoryDir(t), "facts.db")
	full(t, whole, 300)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	var used [3]int
	dir := ocitest.MemoryDir(t)
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		bad := bytes.Clone(data)
		for range 1 + r.IntN(3) {
			page := 2 + r.IntN(len(bad)/4096-2)
			at := bad[page*4096:][:4096]
			switch r.IntN(4) {
			case 0:
				clear(at)
			case 1:
				binary.LittleEndian.PutUint64(at[r.IntN(32)*8:], r.Uint64())
			case 2:
				copy(at, noise(4096))
			case 3:
				at[r.IntN(64)] ^= 1 << r.IntN(8)
			}
		}
		path := filepath.Join(dir, fmt.Sprint(seed))
		write(bad)(t, path)
		used[useDamaged(t, path)]++
	}
	t.Logf("%d did not show, %d were refused at the start, %d showed later", used[0], used[1], used[2])
	if used[2] == 0 {
		t.Error("no damage showed late: this tests nothing")
	}
}

// useDamaged works with the file at path and says when its damage showed.
func useDamaged(t *testing.T, path string) (when int) {
	t.Helper()
	log := io.Discard
	f := open(t, path, Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	if _, err := os.Stat(path + ".damaged"); err == nil {
		when = 1
	}
	f.disk.sweep(nil)
	for i := range 300 {
		a := acme
		a.Repo = fmt.Sprint("acme/", i)
		if age, _ := f.Access(a); age == Fresh {
			t.Fatalf("%s: fresh", a.Repo)
		}
		a.Repo = fmt.Sprint("acme/never", i)
		wantAccess(t, f, a, None)
		if i%3 == 0 {
			f.Prove(a, member, time.Now())
			wantAccess(t, f, a, Fresh)
		}
		if i%50 == 0 {
			f.Deny(a)
			wantAccess(t, f, a, None)
		}
	}
	_ = f.Close() // what it says does not matter
	if f.disk.broken.Load() {
		when = 2
		if _, err := os.Stat(path + ".damaged"); err != nil {
			t.Error("the damaged file was not moved aside")
		}
		works(t, path)
	}
	return when
}

// A file that another process has is nobody's damage.
func TestALockedFileIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{})
	start := time.Now()
	second, err := Open(path, Options{})
	if err == nil {
		_ = second.Close() // the test has failed already
		t.Fatal("two have the file")
	}
	if took := time.Since(start); took > 10*lockTimeout {
		t.Errorf("it took %v", took)
	}
	if !strings.Contains(err.Error(), bolterrors.ErrTimeout.Error()) {
		t.Error(err)
	}
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Fatal("it was moved away under the other's hands")
	}
	f.Prove(acme, member, time.Now())
	closeFacts(t, f)
	wantAccess(t, open(t, path, Options{}), acme, Grace)
}

func TestAFolderThatCannotBeUsedIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(nil)(t, file)
	for name, path := range map[string]string{
		"missing":  filepath.Join(t.TempDir(), "missing", "facts.db"),
		"a file":   filepath.Join(file, "facts.db"),
		"too long": filepath.Join(t.TempDir(), strings.Repeat("x", 300)),
	} {
		if f, err := Open(path, Options{}); err == nil {
			_ = f.Close() // the test has failed already
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAFileThatMayNotBeReadIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	full(t, path, 1)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, filepath.Dir(path), func() {
		f, err := Open(path, Options{})
		if err == nil {
			_ = f.Close() // the test has failed already
		}
		if !strings.Contains(fmt.Sprint(err), fs.ErrPermission.Error()) {
			t.Errorf("%v", err)
		}
	})
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Error("it was moved aside")
	}
}

// asNobody runs fn without root's rights to files, as the owner of dir, which is
// a t.TempDir.
func asNobody(t *testing.T, dir string, fn func()) {
	t.Helper()
	if os.Getuid() == 0 {
		const nobody = 65534
		if err := errors.Join(os.Chown(filepath.Dir(dir), nobody, nobody), os.Chown(dir, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
		runtime.LockOSThread() // and never unlocked on failure: the thread goes
		if err := unix.Setfsuid(nobody); err != nil {
			t.Skip("cannot become somebody else:", err)
		}
		defer func() {
			if err := unix.Setfsuid(0); err == nil {
				runtime.UnlockOSThread()
			}
		}()
	}
	fn()
}

// A panic in the middle of a write can leave bbolt's own lock held.
func TestCloseDoesNotWaitForADamagedFile(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "facts.db"), Options{})
	tx, err := f.disk.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	f.disk.broken.Store(true)
	closed := make(chan error)
	go func() { closed <- f.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it waits")
	}
	if err := errors.Join(tx.Rollback(), f.disk.db.Close()); err != nil {
		t.Error(err)
	}
}
