package coordinator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"berth/fleet/seal"
)

// State is how far a node is with an object.
type State byte

// The states of an object.
const (
	// Writing: some parts are in the bucket.
	Writing State = iota + 1
	// Done: all parts are, and the object was verified.
	Done
	// Whole: the object is small and lies in the record itself, sealed.
	Whole
)

// How long the coordinator keeps what it is told. What is done is forgotten a day
// before the bucket's lifecycle rule may delete its parts.
const (
	keepWriting = time.Hour
	KeepDone    = 13 * 24 * time.Hour
	keepWhole   = 24 * time.Hour
	LeaseTime   = 3 * time.Second
)

// MaxBody bounds what a record of state Whole holds.
const MaxBody = 64<<10 + seal.Overhead

// Hash is the SHA-256 of a sealed part. The zero Hash stands for a part that is not
// there yet.
type Hash [32]byte

// Record is what one node says about one object.
type Record struct {
	State   State
	Writing seal.Writing
	Size    int64  // of the object
	Parts   []Hash // of Writing and Done; parts at the end that are not there may be left out
	Body    []byte // of Whole
}

const (
	recordVersion = 1
	headerSize    = 1 + 1 + 16 + 8
	maxRecord     = headerSize + 32*seal.MaxParts
)

var errRecord = errors.New("not a record")

// encode is version, state, writing, size in eight bytes, and then the hashes or the
// body.
func (r Record) encode() ([]byte, error) {
	b := append(make([]byte, 0, headerSize+32*len(r.Parts)+len(r.Body)), recordVersion, byte(r.State))
	b = append(b, r.Writing[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Size))
	for _, h := range r.Parts {
		b = append(b, h[:]...)
	}
	b = append(b, r.Body...)
	if _, err := decodeRecord(b); err != nil {
		return nil, fmt.Errorf("a record that no node would read: %w", err)
	}
	return b, nil
}

// decodeRecord reads what encode wrote, and nothing else.
func decodeRecord(b []byte) (Record, error) {
	if len(b) < headerSize || b[0] != recordVersion {
		return Record{}, errRecord
	}
	r := Record{State: State(b[1]), Writing: seal.Writing(b[2:18])}
	size, rest := binary.BigEndian.Uint64(b[18:]), b[headerSize:]
	if r.State < Writing || r.State > Whole || size > seal.MaxSize {
		return Record{}, errRecord
	}
	r.Size = int64(size)
	if r.State == Whole {
		if len(rest) > MaxBody {
			return Record{}, errRecord
		}
		r.Body = rest
		return r, nil
	}
	parts := seal.Parts(r.Size)
	if len(rest)%32 != 0 || len(rest)/32 > parts {
		return Record{}, errRecord
	}
	r.Parts = make([]Hash, len(rest)/32)
	for i := range r.Parts {
		r.Parts[i] = Hash(rest[32*i:])
	}
	if r.State == Done && (len(r.Parts) != parts || slices.Contains(r.Parts, Hash{})) {
		return Record{}, errRecord
	}
	return r, nil
}
