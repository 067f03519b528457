package seal

import (
	"encoding/hex"
	"strconv"
)

const (
	// SmallPart is the length of the first eight parts, so that the first byte of an
	// object is early on every node.
	SmallPart = 1 << 20
	// BigPart is the length of all parts after those.
	BigPart = 8 << 20
	// MaxSize is the largest object that is shared. A list of its parts' hashes is
	// 128 KiB then.
	MaxSize = 32 << 30

	smallParts = BigPart / SmallPart

	// Record is the part number under which a record about an object is sealed, as
	// opposed to bytes of it.
	Record = -1
)

// MaxParts is the number of parts of an object of MaxSize.
const MaxParts = smallParts + MaxSize/BigPart - 1

// Parts is how many parts an object of size bytes has. An empty object has none.
func Parts(size int64) int {
	switch {
	case size <= 0:
		return 0
	case size <= BigPart:
		return int((size + SmallPart - 1) / SmallPart)
	}
	return smallParts + int((size-1)/BigPart)
}

// Range is the first byte of a part and the one after its last.
func Range(part int, size int64) (from, to int64) {
	if part < smallParts {
		from, to = int64(part)*SmallPart, int64(part+1)*SmallPart
	} else {
		from, to = int64(part-smallParts+1)*BigPart, int64(part-smallParts+2)*BigPart
	}
	return min(from, size), min(to, size)
}

// PartAt is the part in which the byte at offset lies.
func PartAt(offset int64) int {
	if offset < BigPart {
		return int(offset / SmallPart)
	}
	return smallParts - 1 + int(offset/BigPart)
}

// ObjectKey is where a part lies in the bucket. The first two digits, the name's and the
// part's number together, spread an object's parts over prefixes: S3 counts how many reads
// a second there are below one, and a thousand nodes read one object at once.
func ObjectKey(name string, w Writing, part int) string {
	first, _ := strconv.ParseUint(name[:2], 16, 8) // names are hex
	prefix := hex.EncodeToString([]byte{byte(first) + byte(part)})
	return "v1/" + prefix + "/" + name + "/" + w.String() + "/" + strconv.Itoa(part)
}
