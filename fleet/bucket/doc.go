// Package bucket reads and writes small whole objects in an S3-compatible bucket. It
// gets and puts; it never lists or deletes, and needs no right to.
//
// A bucket that fails is left alone until a probe finds it back (package gate), reading
// and writing each for itself: one that is full can still be read.
package bucket
