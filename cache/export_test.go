package cache

import "berth/cache/store"

// Failing is o with file operations that fault decides about.
func Failing(o Options, fault func(op store.Op, path string) error) Options {
	o.fault = fault
	return o
}

// PastTheDisk is as if the disk had failed just now.
func (c *Cache) PastTheDisk() { c.trouble.diskFailed(store.ErrDisk) }

// Settle waits until what has come is on the disk.
func (c *Cache) Settle() { c.writes.Wait() }

// DiskRest and LackFor are what they are inside.
const (
	DiskRest = diskRest
	LackFor  = lackFor
)

// Look is what is done every few seconds.
func (c *Cache) Look() { c.look() }

// Dir is the folder.
func (c *Cache) Dir() string { return c.o.Dir }
