package proof

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// writeAfter is how long proofs wait to be written together.
	writeAfter = time.Second
	// unusedFor is how long a proof lives that nothing renews.
	unusedFor = 30 * 24 * time.Hour
	// sweepEvery is how often those are looked for, after once at the start.
	sweepEvery = 24 * time.Hour
	// sweepStep is how many records are looked at in one transaction, so that a
	// denial never waits long for a sweep, or for a list.
	sweepStep = 1000
)

const (
	// maxPending bounds what waits for the next write. One organisation may take half of
	// it, the next one half of what is left, and so on. Above that proofs are dropped,
	// which costs a HEAD after the next restart; denials never are.
	maxPending = 20_000
	// maxRecord bounds a key and its value, in bytes. Both are far below; one
	// that bbolt refused would take all others of its transaction with it.
	maxRecord = 16 << 10
)

type pendingKey struct {
	bucket bucket
	key    string
}

// disk is the file behind the memory. Only slow paths read it: a proof that
// memory has is never looked up here.
type disk struct {
	path  string
	db    *bbolt.DB
	log   *slog.Logger
	clock func() time.Time
	limit int64
	// full: the file holds limit bytes of proofs, until some are dropped.
	full atomic.Bool
	// broken: the file turned out to be damaged and was moved aside. Memory
	// goes on alone.
	broken atomic.Bool

	// unreadable: the last read failed and was logged.
	unreadable atomic.Bool

	// writing is held from taking a batch to its commit, so that an older
	// batch cannot be committed after a newer one.
	writing sync.Mutex
	failing bool // the last write failed and was logged; under writing

	mu       sync.Mutex
	pending  map[pendingKey][]byte // nil value: delete
	queued   map[string]int        // by organisation, of those that were queued since the last write
	flushing map[pendingKey][]byte // on its way to the file, and perhaps not there yet

	dirty chan struct{} // something became pending
	stop  func()
	done  chan struct{}
}

func openDisk(path string, o Options) (*disk, error) {
	db, err := openFile(path, o.Log)
	if err != nil {
		return nil, err
	}
	stop := make(chan struct{})
	d := &disk{
		path: path, db: db, log: o.Log, clock: o.Now, limit: o.FileBytes,
		pending: map[pendingKey][]byte{}, queued: map[string]int{},
		dirty: make(chan struct{}, 1),
		stop:  sync.OnceFunc(func() { close(stop) }), done: make(chan struct{}),
	}
	go d.writeBehind(stop)
	return d, nil
}

// close writes what is pending and closes the file.
func (d *disk) close() error {
	d.stop()
	<-d.done
	if d.broken.Load() {
		return nil // bbolt may hold its own locks for ever; the file is out of the way
	}
	err := d.flush()
	return errors.Join(err, d.db.Close())
}

// writeBehind writes a second after something became pending, and drops what
// nothing used for long. An idle node is not woken.
func (d *disk) writeBehind(stop <-chan struct{}) {
	defer close(d.done)
	write, sweep := time.NewTimer(writeAfter), time.NewTicker(sweepEvery)
	defer write.Stop()
	defer sweep.Stop()
	armed := true
	d.sweep(stop)
	for {
		select {
		case <-d.dirty:
			if !armed {
				write.Reset(writeAfter)
				armed = true
			}
		case <-write.C:
			if armed = d.flush() != nil; armed {
				write.Reset(writeAfter)
			}
			if d.full.Load() {
				if err := d.trim(stop); err != nil {
					d.log.Warn("making room in facts.db", "err", err)
				}
			}
		case <-sweep.C:
			d.sweep(stop)
		case <-stop:
			return
		}
	}
}

// run runs fn in a transaction of do, which is View or Update of db, and gives the
// file up when it is damaged.
func (d *disk) run(do func(func(*bbolt.Tx) error) error, fn func(*bbolt.Tx) error) error {
	if d.broken.Load() {
		return nil
	}
	err := catch(func() error { return do(fn) })
	if _, is := errors.AsType[*damage](err); is && d.broken.CompareAndSwap(false, true) {
		d.log.Error("facts.db is damaged and is moved aside; until the next restart facts are kept in memory only", "err", err)
		if err := moveAside(d.path); err != nil {
			d.log.Error("facts.db stays, and may be refused at the next start", "err", err)
		}
	}
	return err
}

// enqueue queues one record for the next write, on by's account.
func (d *disk) enqueue(by string, b bucket, key, value []byte) {
	if d.full.Load() && d.get(b, key) == nil {
		return // one more, before there was time to make room
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k := pendingKey{b, string(key)}
	if _, known := d.pending[k]; known {
		d.put(k, value)
	} else if d.queued[by] < maxPending-len(d.pending) {
		d.queued[by]++
		d.put(k, value)
	}
}

// enqueueMust queues a record that must not be dropped. Their number is bounded,
// since callers only write about keys that are in the file or queued already.
func (d *disk) enqueueMust(b bucket, key, value []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.put(pendingKey{b, string(key)}, value)
}

// put queues. Caller holds mu.
func (d *disk) put(k pendingKey, value []byte) {
	if d.broken.Load() || len(k.key)+len(value) > maxRecord {
		return
	}
	d.pending[k] = value
	select {
	case d.dirty <- struct{}{}:
	default: // it is known
	}
}

// unwritten says whether something about key is on its way to the file.
func (d *disk) unwritten(b bucket, key []byte) bool {
	_, ok := d.waiting(b, key)
	return ok
}

func (d *disk) waiting(b bucket, key []byte) (value []byte, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := pendingKey{b, string(key)}
	if value, ok = d.pending[k]; !ok {
		value, ok = d.flushing[k]
	}
	return value, ok
}

// flush writes everything pending in one transaction. What could not be written
// stays pending.
func (d *disk) flush() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	batch := d.take()
	if len(batch) == 0 {
		return nil
	}
	err := d.run(d.db.Update, func(tx *bbolt.Tx) error { return putAll(tx, batch) })
	d.written(err == nil || d.broken.Load())
	if err != nil && !d.failing {
		d.log.Warn("facts cannot be written; this is tried once a second", "err", err)
	}
	d.failing = err != nil
	d.measure()
	return err
}

// measure notes whether the file is full.
func (d *disk) measure() {
	used := d.used()
	if full := used > d.limit; full != d.full.Swap(full) && full {
		d.log.Warn("facts.db is as large as it may be: the oldest facts of the organisation that has the most are dropped", "bytes", used)
	}
}

// used is how much of the file is in use. What bbolt has freed it uses again.
func (d *disk) used() (n int64) {
	_ = d.run(d.db.View, func(tx *bbolt.Tx) error {
		s := d.db.Stats()
		n = tx.Size() - int64(s.FreePageN+s.PendingPageN)*int64(d.db.Info().PageSize)
		return nil
	}) // run has said what is wrong
	return n
}

// take moves what is pending to flushing, where reads find it until it is in
// the file. Caller holds writing.
func (d *disk) take() map[pendingKey][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushing, d.pending = d.pending, map[pendingKey][]byte{}
	clear(d.queued)
	return d.flushing
}

// written ends the write of a batch that take gave. If it failed, its records become
// pending again, except those of which a newer one is pending.
func (d *disk) written(ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !ok {
		maps.Copy(d.flushing, d.pending)
		d.pending = d.flushing
	}
	d.flushing = nil
}

// putAll writes in the order of the keys: bbolt keeps a sorted list while a
// transaction lasts, and inserting anywhere in a long one is slow.
func putAll(tx *bbolt.Tx, batch map[pendingKey][]byte) error {
	keys := slices.SortedFunc(maps.Keys(batch), func(a, b pendingKey) int { return strings.Compare(a.key, b.key) })
	for _, k := range keys {
		b, err := tx.CreateBucketIfNotExists([]byte(k.bucket))
		if err != nil {
			return err
		}
		if v := batch[k]; v == nil {
			err = drop(tx, k.bucket, []byte(k.key))
		} else {
			err = b.Put([]byte(k.key), v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// drop deletes a record, and on whose account it was kept.
func drop(tx *bbolt.Tx, b bucket, key []byte) error {
	return errors.Join(tx.Bucket([]byte(b)).Delete(key), tx.Bucket([]byte(byBucket)).Delete(byKey(b, key)))
}

func (d *disk) get(b bucket, key []byte) (value []byte) {
	if v, ok := d.waiting(b, key); ok {
		return v
	}
	err := d.run(d.db.View, func(tx *bbolt.Tx) error {
		if from := tx.Bucket([]byte(b)); from != nil {
			value = bytes.Clone(from.Get(key))
		}
		return nil
	})
	if failed := err != nil && !d.broken.Load(); failed != d.unreadable.Swap(failed) && failed {
		d.log.Warn("facts cannot be read: what they would have proven is asked for", "err", err)
	}
	return value
}

// sweep deletes proofs that nothing renewed for unusedFor, those that have a time
// which no clock can have shown, and what cannot be read.
func (d *disk) sweep(stop <-chan struct{}) {
	for _, b := range sharedBuckets {
		if err := d.deleteWhere(stop, b, d.unused); err != nil {
			d.log.Warn("dropping old facts", "err", err)
			return
		}
	}
	if err := d.deleteWhere(stop, byBucket, ofNothing); err != nil {
		d.log.Warn("dropping old facts", "err", err)
	}
}

// ofNothing says whether k is about a record that an earlier version has dropped.
func ofNothing(tx *bbolt.Tx, _ bucket, k, _ []byte) bool {
	for _, b := range factBuckets {
		if k[0] == b[0] {
			return tx.Bucket([]byte(b)).Get(k[1:]) == nil
		}
	}
	return true
}

// deleteWhere deletes the records of a bucket that are to go, until stop is closed.
// It collects some before it deletes them: a bbolt cursor skips the key after a
// deleted one.
func (d *disk) deleteWhere(stop <-chan struct{}, b bucket, gone func(tx *bbolt.Tx, b bucket, k, v []byte) bool) (err error) {
	for next, more := []byte(nil), true; more; more = next != nil {
		select {
		case <-stop:
			return nil
		default:
		}
		var old [][]byte
		next, err = d.step(b, next, func(tx *bbolt.Tx, k, v []byte) {
			if gone(tx, b, k, v) {
				old = append(old, bytes.Clone(k))
			}
		})
		if err == nil && len(old) > 0 {
			err = d.run(d.db.Update, func(tx *bbolt.Tx) error {
				return deleteIf(tx, b, old, gone)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteIf deletes those of keys that are still to go: some may have been renewed.
func deleteIf(tx *bbolt.Tx, b bucket, keys [][]byte, gone func(tx *bbolt.Tx, b bucket, k, v []byte) bool) error {
	for _, k := range keys {
		if v := tx.Bucket([]byte(b)).Get(k); v != nil && gone(tx, b, k, v) {
			if err := drop(tx, b, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// step shows up to sweepStep records of a bucket to see, from key on, and says where
// to go on; nil: that was the last.
func (d *disk) step(b bucket, key []byte, see func(tx *bbolt.Tx, k, v []byte)) (next []byte, err error) {
	err = d.run(d.db.View, func(tx *bbolt.Tx) error {
		from := tx.Bucket([]byte(b))
		if from == nil {
			return nil // nothing of the kind was ever written
		}
		c := from.Cursor()
		k, v := c.Seek(key)
		for n := 0; k != nil && n < sweepStep; n++ {
			see(tx, k, v)
			k, v = c.Next()
		}
		next = bytes.Clone(k)
		return nil
	})
	return next, err
}

func (d *disk) unused(_ *bbolt.Tx, b bucket, _, v []byte) bool {
	return d.clock().Sub(lastUse(b, v)).Abs() > unusedFor
}
