package proof

import (
	"bytes"

	"go.etcd.io/bbolt"
)

// What every version reads.
//
// A node that goes back to an earlier version has its cache still: a pull of what
// is kept must then cost a HEAD, and not a probe for each blob. What a HEAD of a
// manifest cannot prove again is that its blobs are in the repository, so the form
// of these proofs never changes:
//
//	bucket "meta", key "version"   the form of all buckets but "member"
//	bucket "member"
//	  key    origin, repository, kind and digest, each behind its length (uvarint)
//	  value  'p', and when the request was sent that the origin answered with 2xx:
//	         nanoseconds since 1970, 8 bytes, big endian
//
// A value of another form is no proof, so a version that has more to say about an
// object says it in a bucket of its own; but never what takes something back from
// here: a version that learns that an object is gone deletes its record. One that
// cannot keep to that leaves "member" out and gives its bucket another name.
//
// Nothing else is taken over. Rights, denials among them, go together: what another
// version knew of a principal's rights may be newer or older than what this one learns,
// and a proof without the denial that followed it would revive what was withdrawn.
// A membership is about nobody, and alone releases nothing.

// migrate makes a file of another version one of this. It is one transaction, so
// that a crash leaves the one or the other.
func migrate(tx *bbolt.Tx) error {
	var others [][]byte
	err := tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
		if string(name) != string(memberBucket) {
			others = append(others, bytes.Clone(name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range others {
		if err := tx.DeleteBucket(name); err != nil {
			return err
		}
	}
	return create(tx)
}
