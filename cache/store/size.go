package store

// Size is how many bytes are kept, and reserved for growing blobs. Until the
// folder was counted once, after the start, it is what came since.
func (s *Store) Size() int64 {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	return s.room.kept + s.room.growing
}
