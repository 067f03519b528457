package proof

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// version is the form of what the file holds, memberships apart: see migrate.go.
const version = "1"

type bucket string

const (
	accessBucket bucket = "access"
	memberBucket bucket = "member"
	tagBucket    bucket = "tag"
	metaBucket   bucket = "meta"
	// byBucket says on whose account records are kept; see byKey.
	byBucket bucket = "by"
)

// versionKey is where metaBucket has the version.
const versionKey = "version"

// factBuckets are those that every file has, and sharedBuckets what the file is shared
// out to.
var (
	factBuckets   = [...]bucket{accessBucket, memberBucket, tagBucket}
	sharedBuckets = [...]bucket{accessBucket, memberBucket, tagBucket, notesBucket}
)

const (
	// lockTimeout bounds the waiting for another process that has the file.
	lockTimeout = time.Second
	// mapped is how much of the file is mapped into memory, whatever is there, and
	// grows how much longer than it must be the file is made.
	mapped = 512 << 20
	grows  = 64 << 10
)

// openFile opens the file at path, or makes it. One that cannot be used is moved
// aside.
func openFile(path string, log *slog.Logger) (*bbolt.DB, error) {
	db, err := openCurrent(path, log)
	if err != nil && damaged(err) {
		log.Warn("facts.db cannot be used and is moved aside; what is kept is proven again: each manifest comes once more, or by a HEAD at Docker Hub, and of each blob some pieces do", "err", err)
		if err := moveAside(path); err != nil {
			return nil, err
		}
		db, err = openCurrent(path, log)
	}
	if err != nil {
		return nil, fmt.Errorf("opening facts: %w", err)
	}
	return db, nil
}

// damaged says whether err is about what is in the file. If it is about the
// folder, the disk or another process, a new file would be no better, and what
// has been proven need not be lost.
func damaged(err error) bool {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return false
	}
	errno, system := errors.AsType[syscall.Errno](err)
	return !system || errno == syscall.EISDIR || errno == syscall.EIO
}

func moveAside(path string) error {
	aside := path + ".damaged"
	_ = os.Remove(aside) // a folder cannot be replaced by renaming
	if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("moving a damaged facts.db aside: %w", err)
	}
	return nil
}

// openCurrent opens path and makes sure that it is whole and of our version.
//
// The list of free pages is kept in the file (bbolt's NoFreelistSync is off):
// without it bbolt walks the whole file to open it, and does so in a goroutine
// of its own, where a damaged page ends the process.
//
// mapped is more than the file grows to: where bbolt has to map it anew and the
// disk has failed meanwhile, it has lost the old mapping by then, and reads nothing
// any more. Ext4 refuses that when it has gone read-only. It is address space only.
func openCurrent(path string, log *slog.Logger) (*bbolt.DB, error) {
	var db *bbolt.DB
	err := catch(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapped})
		if err == nil {
			db.AllocSize = grows
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := catch(func() error { return prepare(db, log) }); err != nil {
		_ = db.Close() // the error that counts is the one before
		return nil, err
	}
	return db, nil
}

var (
	errNew   = errors.New("the file is new")
	errOther = errors.New("the file is of another version")
	// errNoOwners: a version wrote it that did not share it out.
	errNoOwners = errors.New("the file does not say on whose account records are kept")
)

// prepare looks at what db holds, and fills it only if it holds nothing, or what
// another version of this program left: a file that belongs to something else is
// never written to, and a full disk is no trouble for one that is complete.
func prepare(db *bbolt.DB, log *slog.Logger) error {
	err := db.View(check)
	switch {
	case errors.Is(err, errNoOwners):
		return db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte(byBucket))
			return err
		})
	case errors.Is(err, errNew):
		return db.Update(create)
	case errors.Is(err, errOther):
		log.Info("facts.db was written by another version: what is known of contents stays, rights are proven again by a HEAD for each pull")
		return db.Update(migrate)
	}
	return err
}

func check(tx *bbolt.Tx) error {
	if k, _ := tx.Cursor().First(); k == nil {
		return errNew
	}
	info, err := os.Stat(tx.DB().Path())
	if err != nil {
		return err
	}
	if tx.Size() > info.Size() { // bbolt would fault on the pages that are gone
		return fmt.Errorf("cut short: %d of %d bytes", info.Size(), tx.Size())
	}
	meta := tx.Bucket([]byte(metaBucket))
	if meta == nil {
		return errors.New("it belongs to something else")
	}
	v := meta.Get([]byte(versionKey))
	if v == nil {
		return errors.New("it has no version")
	}
	if string(v) != version && tx.Bucket([]byte(memberBucket)) != nil {
		return errOther
	}
	for _, b := range factBuckets {
		if tx.Bucket([]byte(b)) == nil {
			return fmt.Errorf("it has no %s", b)
		}
	}
	if tx.Bucket([]byte(byBucket)) == nil {
		return errNoOwners
	}
	return nil
}

func create(tx *bbolt.Tx) error {
	for _, b := range append(factBuckets[:], byBucket) {
		if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
			return err
		}
	}
	meta, err := tx.CreateBucket([]byte(metaBucket))
	if err != nil {
		return err
	}
	return meta.Put([]byte(versionKey), []byte(version))
}

// damage is what bbolt panicked with.
type damage struct{ cause any }

func (d *damage) Error() string { return fmt.Sprintf("damaged: %v", d.cause) }

// catch runs fn, which reads or writes the file. bbolt maps the file into memory
// and believes what it finds there, so damage shows as a panic, or as a fault at
// an impossible address. It becomes an error: it must cost HEADs, not the process.
func catch(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damage{p}
		}
	}()
	return fn()
}
