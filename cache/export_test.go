package cache

import "berth/cache/store"

// Failing is o with file operations that fault decides about.
func Failing(o Options, fault func(op store.Op, path string) error) Options {
	o.fault = fault
	return o
}

// PastTheDisk is as if the disk had failed just now.
func (c *Cache) PastTheDisk() { c.diskFailed(errDisk) }
