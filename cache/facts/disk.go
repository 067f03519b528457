package facts

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"berth/oci"
)

// version is the layout of the file. Another one is moved aside.
const version = "1"

// unusedFor is how long a fact lives that nothing renews.
const unusedFor = 30 * 24 * time.Hour

// maxPending bounds what waits for the next write. Above it facts are dropped,
// which costs a HEAD after the next restart.
const maxPending = 100_000

type bucket string

const (
	accessBucket bucket = "access"
	memberBucket bucket = "member"
	tagBucket    bucket = "tag"
	metaBucket   bucket = "meta"
)

type pendingKey struct {
	bucket bucket
	key    string
}

// disk is the file behind the memory. Only slow paths read it: a fact that
// memory has is never looked up here.
type disk struct {
	db    *bbolt.DB
	log   *slog.Logger
	clock func() time.Time

	// writing is held from taking a batch to its commit, so that an older
	// batch cannot be committed after a newer one.
	writing sync.Mutex

	mu      sync.Mutex
	pending map[pendingKey][]byte // nil value: delete

	stop chan struct{}
	done chan struct{}
}

func openDisk(path string, o Options) (*disk, error) {
	db, err := openCurrent(path)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		aside := path + ".damaged"
		o.Log.Warn("facts.db cannot be used and was moved aside; each image costs one HEAD to prove again", "err", err, "aside", aside)
		if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("moving a damaged facts.db aside: %w", err)
		}
		db, err = openCurrent(path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening facts: %w", err)
	}
	d := &disk{
		db: db, log: o.Log, clock: o.Now,
		pending: map[pendingKey][]byte{},
		stop:    make(chan struct{}), done: make(chan struct{}),
	}
	go d.writeBehind()
	return d, nil
}

// openCurrent opens path and makes sure that it is of our version. bbolt
// panics on some damaged files; that is an error here.
func openCurrent(path string) (db *bbolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged: %v", p)
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	if err := db.Update(prepare); err != nil {
		_ = db.Close() // the error that counts is the one before
		return nil, err
	}
	return db, nil
}

func prepare(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists([]byte(metaBucket))
	if err != nil {
		return err
	}
	if v := meta.Get([]byte("version")); v != nil && string(v) != version {
		return fmt.Errorf("version %q, this program writes %q", v, version)
	}
	for _, b := range []bucket{accessBucket, memberBucket, tagBucket} {
		if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
			return err
		}
	}
	return meta.Put([]byte("version"), []byte(version))
}

func (d *disk) close() error {
	close(d.stop)
	<-d.done
	return d.db.Close()
}

// writeBehind writes what is pending once a second, and drops what nothing
// used for long once at the start.
func (d *disk) writeBehind() {
	defer close(d.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	d.report("dropping old facts", d.sweep())
	for {
		select {
		case <-tick.C:
			d.report("writing facts", d.flush())
		case <-d.stop:
			d.report("writing facts", d.flush())
			return
		}
	}
}

func (d *disk) report(doing string, err error) {
	if err != nil {
		d.log.Warn("facts: "+doing, "err", err)
	}
}

func (d *disk) later(b bucket, key, value []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.pending) < maxPending {
		d.pending[pendingKey{b, string(key)}] = value
	}
}

// flush writes everything pending in one transaction.
func (d *disk) flush() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	batch := d.pending
	d.pending = map[pendingKey][]byte{}
	d.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	return d.db.Update(func(tx *bbolt.Tx) error {
		for k, v := range batch {
			if err := put(tx, k, v); err != nil {
				return err
			}
		}
		return nil
	})
}

func put(tx *bbolt.Tx, k pendingKey, v []byte) error {
	b := tx.Bucket([]byte(k.bucket))
	if v == nil {
		return b.Delete([]byte(k.key))
	}
	return b.Put([]byte(k.key), v)
}

// now writes one fact, and whatever is pending, before it returns. The pending
// ones must go first: an older proof of the same key must not be written after
// the denial.
func (d *disk) now(b bucket, key, value []byte) error {
	d.later(b, key, value)
	return d.flush()
}

func (d *disk) get(b bucket, key []byte) (value []byte) {
	d.mu.Lock()
	v, ok := d.pending[pendingKey{b, string(key)}]
	d.mu.Unlock()
	if ok {
		return v
	}
	err := d.db.View(func(tx *bbolt.Tx) error {
		value = append(value, tx.Bucket([]byte(b)).Get(key)...)
		return nil
	})
	d.report("reading", err)
	return value
}

func (d *disk) proof(b bucket, key []byte) (proof, bool) {
	p, ok := decodeProof(d.get(b, key))
	p.restored = true
	return p, ok
}

func (d *disk) tag(k TagKey) (Tag, bool) {
	t, ok := decodeTag(d.get(tagBucket, k.key()))
	t.restored = true
	return t, ok
}

// sweep deletes facts that nothing renewed for unusedFor, and what cannot be read.
func (d *disk) sweep() error {
	limit := d.clock().Add(-unusedFor)
	return d.db.Update(func(tx *bbolt.Tx) error {
		for _, b := range []bucket{accessBucket, memberBucket, tagBucket} {
			c := tx.Bucket([]byte(b)).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if lastUse(b, v).After(limit) {
					continue
				}
				if err := c.Delete(); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func lastUse(b bucket, v []byte) time.Time {
	if b == tagBucket {
		t, _ := decodeTag(v)
		return t.Asked
	}
	p, _ := decodeProof(v)
	if p.denied.After(p.proven) {
		return p.denied
	}
	return p.proven
}

// join makes a key. No part can contain a NUL: names, tags, digests and
// organisations have their grammars, fingerprints are text.
func join(parts ...string) []byte { return []byte(strings.Join(parts, "\x00")) }

func (a Access) key() []byte {
	return join(a.Origin, a.View.Organisation, a.View.Fingerprint, a.Repo, a.Digest.String())
}

func (m Member) key() []byte { return join(m.Origin, m.Repo, m.Kind.String(), m.Digest.String()) }

func (k TagKey) key() []byte {
	return join(k.Origin, k.View.Organisation, k.View.Fingerprint, k.Repo, k.Tag)
}

func (p proof) encode() []byte {
	b := make([]byte, 0, 16)
	b = binary.BigEndian.AppendUint64(b, nanos(p.proven))
	return binary.BigEndian.AppendUint64(b, nanos(p.denied))
}

// decodeProof reads what encode wrote. Anything else is no proof.
func decodeProof(b []byte) (proof, bool) {
	if len(b) != 16 {
		return proof{}, false
	}
	return proof{
		proven: fromNanos(binary.BigEndian.Uint64(b)),
		denied: fromNanos(binary.BigEndian.Uint64(b[8:])),
	}, true
}

func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

func fromNanos(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n))
}

type storedTag struct {
	MediaType string     `json:"mediaType"`
	Digest    oci.Digest `json:"digest"`
	Size      int64      `json:"size"`
	Asked     uint64     `json:"asked"`
}

func (t Tag) encode() []byte {
	b, err := json.Marshal(storedTag{t.MediaType, t.Digest, t.Size, nanos(t.Asked)})
	if err != nil {
		return nil // cannot happen: strings and numbers; nil means "delete"
	}
	return b
}

func decodeTag(b []byte) (Tag, bool) {
	var s storedTag
	if len(b) == 0 || json.Unmarshal(b, &s) != nil {
		return Tag{}, false
	}
	d, err := oci.ParseDigest(s.Digest.String())
	if err != nil {
		return Tag{}, false
	}
	return Tag{MediaType: s.MediaType, Digest: d, Size: s.Size, Asked: fromNanos(s.Asked)}, true
}
