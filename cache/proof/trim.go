package proof

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// What is kept in the file is shared out like what is kept in memory: where it is full,
// the oldest records of whoever has the most go, denials among them. Without its record
// a right is not proven, so to lose one costs a request and gives nobody anything.

// byKey is where byBucket says on whose account a record is kept, where its own key
// does not: memberships are about nobody, and many organisations ask as the shared
// principal. Versions that do not know the bucket leave it alone.
func byKey(b bucket, key []byte) []byte { return append([]byte{b[0]}, key...) }

// ownerOf is on whose account a record is kept; empty: nobody knows.
func ownerOf(tx *bbolt.Tx, b bucket, key []byte) string {
	if b != memberBucket {
		if organisation := organisationOf(key); organisation != "" {
			return organisation
		}
	}
	return string(tx.Bucket([]byte(byBucket)).Get(byKey(b, key)))
}

// attribute notes on whose account the record of key is kept.
func (d *disk) attribute(b bucket, key []byte, by string) {
	if by == "" || b != memberBucket && organisationOf(key) != "" {
		return
	}
	d.enqueue(by, byBucket, byKey(b, key), []byte(by))
}

const (
	// trimTo is the part of the limit, in eighths, that is left by a trim. A trim reads
	// all of the file, and should be rare.
	trimTo = 7
	// trimRounds bounds the rounds of one. Each takes twice the part of the one before:
	// what is deleted here and there frees little, since pages stay that are in use in
	// part, until they are empty enough to be merged.
	trimRounds = 8
	// trimStep is how closely the ages of records are told apart.
	trimStep = 10 * time.Minute
)

// trim makes room in a file that is full.
func (d *disk) trim(stop <-chan struct{}) error {
	goal := d.limit / 8 * trimTo
	for round := range trimRounds {
		used := d.used()
		if used <= goal || d.broken.Load() {
			break
		}
		all, err := d.weigh(stop)
		if err != nil {
			return err
		}
		before := cutsOf(all, min(float64(used-goal)/float64(used)*float64(int(1)<<round), 1))
		for _, b := range sharedBuckets {
			err := d.deleteWhere(stop, b, func(tx *bbolt.Tx, b bucket, k, v []byte) bool {
				cut, loses := before[ownerOf(tx, b, k)]
				return loses && stepOf(b, v) <= cut
			})
			if err != nil {
				return err
			}
		}
	}
	d.measure()
	return nil
}

// ages are bytes of records by the step of time in which they were last renewed.
type ages map[int64]int64

func (a ages) sum() (n int64) {
	for _, bytes := range a {
		n += bytes
	}
	return n
}

func stepOf(b bucket, v []byte) int64 { return lastUse(b, v).Unix() / int64(trimStep/time.Second) }

// weigh says what each organisation has in the file.
func (d *disk) weigh(stop <-chan struct{}) (map[string]ages, error) {
	all := map[string]ages{}
	for _, b := range sharedBuckets {
		err := d.each(stop, b, func(tx *bbolt.Tx, k, v []byte) {
			owner := ownerOf(tx, b, k)
			if all[owner] == nil {
				all[owner] = ages{}
			}
			all[owner][stepOf(b, v)] += int64(len(k) + len(v))
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// cutsOf takes a part of all bytes from those who have the most: up to which step of
// time each of them loses his records.
func cutsOf(all map[string]ages, part float64) map[string]int64 {
	sums := map[string]int64{}
	var total int64
	for owner, a := range all {
		sums[owner] = a.sum()
		total += sums[owner]
	}
	keep := levelOf(slices.Collect(maps.Values(sums)), int64(math.Ceil(part*float64(total))))
	cuts := map[string]int64{}
	for owner, a := range all {
		over := sums[owner] - keep
		for _, step := range slices.Sorted(maps.Keys(a)) {
			if over <= 0 {
				break
			}
			cuts[owner] = step
			over -= a[step]
		}
	}
	return cuts
}

// levelOf is what each may keep at most, so that n goes in all.
func levelOf(sums []int64, n int64) int64 {
	slices.SortFunc(sums, func(a, b int64) int { return cmp.Compare(b, a) })
	for i, sum := range sums {
		next := int64(0)
		if i+1 < len(sums) {
			next = sums[i+1]
		}
		all := int64(i + 1) // that are as large by now
		if n <= (sum-next)*all {
			return sum - (n+all-1)/all
		}
		n -= (sum - next) * all
	}
	return 0
}
