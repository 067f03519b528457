package store

import "errors"

// Probe says whether the folder can be written now, by doing it.
func (s *Store) Probe() error {
	if s.Gone() {
		return ErrGone
	}
	if err := s.disk.mkdirAll(s.tmp()); err != nil {
		return err
	}
	f, err := s.disk.createTemp(s.tmp(), "probe-*", 1)
	if err != nil {
		return err
	}
	_, err = s.disk.writeAt(f, []byte{1}, 0)
	if err == nil {
		err = s.disk.sync(f)
	}
	return errors.Join(err, f.Close(), s.disk.remove(f.Name()))
}
