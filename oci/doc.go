// Package oci is the vocabulary of the house: what a registry is asked for
// (Request, Object, Range), what it answers (Descriptor, Content, Page), as
// whom it is asked (Principal), how it fails (Class, Error), and the one interface
// that everything speaks (Source).
//
// It knows nothing of HTTP servers, disks, credentials or configuration, does
// no I/O and imports no other package of this module.
package oci
