package store

import (
	"errors"
	"fmt"
	"io"

	"berth/internal/descriptor"
	"berth/oci"
)

// ErrDisk is in every error of our own disk, or about its room: the pull goes past
// it.
var ErrDisk = errors.New("the cache cannot keep this blob")

// DiskError wraps a failure of our disk, as an answer for those who cannot go past
// the disk any more: it is nobody's fault upstream. Where descriptors have run out
// nothing goes past the disk: that would take one too.
func DiskError(err error) error {
	switch {
	case errors.Is(err, ErrDisk):
		return err
	case descriptor.Exhausted(err):
		return descriptor.Error(err)
	}
	return &oci.Error{
		Class: oci.Disk, Err: fmt.Errorf("%w: %w", ErrDisk, err),
		Message: "this node's disk failed in the middle of a download: pull again",
	}
}

// ReadError is what reading a file came to that has more than was read.
func ReadError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF): // shorter than it was said to be
		return io.ErrUnexpectedEOF
	}
	return DiskError(err)
}
