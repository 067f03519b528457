package admin

// problem says that pulls go past the disk, why, and what to do.
func (c *Cache) problem() (Problem, bool) {
	const past = "pulls go past the disk"
	p := c.PastDisk
	if p == nil {
		if c.Unwritable {
			return Problem{Bad: true, Text: "the cache's disk cannot be written: " + past}, true
		}
		return Problem{}, false
	}
	switch p.Reason {
	case "unusable":
		return Problem{Bad: true, Text: "the cache folder cannot be used: " + past + " until it can. Mend it; berth need not be restarted", Detail: p.Error}, true
	case "failed":
		return Problem{Bad: true, Text: "the cache's disk cannot be written: " + past + " until it can. Look at the disk and at the folder's owner and mode", Detail: p.Error}, true
	case "bytes":
		return Problem{Text: past + ", which is full of what is not the cache's: " + bytesOf(p.Bytes) + " had no room above cache.min_free. Free space there, or name another folder"}, true
	case "inodes":
		return Problem{Text: past + ", which can hold no more files (its inodes are used up). Delete files there, or name another folder"}, true
	case "too_large":
		return Problem{Text: past + " for what is larger than all that may be kept: " + bytesOf(p.Bytes) + " where the limit is " + c.limit() + ". Raise cache.max_size to keep it"}, true
	case "busy":
		return Problem{Text: past + " while the downloads under way fill what may be kept: raise cache.max_size"}, true
	}
	return Problem{Text: past + " for one organisation: " + bytesOf(p.Bytes) + " is more than its downloads may take of cache.max_size at once"}, true
}

// limit is cache.max_size in words.
func (c *Cache) limit() string {
	if c.LimitBytes > 0 {
		return bytesOf(c.LimitBytes)
	}
	return "the disk's"
}
