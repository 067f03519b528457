package cache

// Forget drops what was proven to an organisation, so that its next request of
// each kind asks upstream. Bytes stay: they are nobody's, and go only to who
// proves to have them. What is under way ends, and proves nothing.
//
// The error says that the disk could not be written: what it holds is forgotten
// until the next restart only.
func (c *Cache) Forget(organisation string) error {
	its := func(k questionKey) bool { return k.principal.Organisation == organisation }
	c.missing.ReleaseIf(its)
	c.stats.Forget(its)
	c.resolves.Forget(its)
	c.shows.Forget(its)
	return c.proofs.Forget(organisation)
}
