package linewriter

import (
	"bytes"
	"errors"
	"testing"
)

// small is a disk with room for some bytes.
type small struct {
	bytes.Buffer
	room int
}

func (s *small) Write(p []byte) (int, error) {
	if len(p) > s.room {
		n, _ := s.Buffer.Write(p[:s.room]) // never fails
		s.room = 0
		return n, errors.New("full")
	}
	s.room -= len(p)
	return s.Buffer.Write(p)
}

// What is lost is counted by lines, also the one of which there is a part; and the next
// line begins at the beginning of one.
func TestWriter_DiskThatFills(t *testing.T) {
	disk := &small{room: 6}
	w := Writer{To: disk}
	for _, step := range []struct {
		room int
		text string
		lost int
		has  string
	}{
		{6, "one\ntwo\nthree\n", 2, "one\ntw"},
		{0, "four\n", 1, "one\ntw"},
		{100, "five\n", 0, "one\ntw\nfive\n"},
		{0, "", 0, "one\ntw\nfive\n"},
		{0, "six\n", 1, "one\ntw\nfive\n"},
		{4, "sev\neight\n", 1, "one\ntw\nfive\nsev\n"},
		{100, "nine\n", 0, "one\ntw\nfive\nsev\nnine\n"},
	} {
		disk.room = step.room
		lost, err := w.Write([]byte(step.text))
		if lost != step.lost || (err != nil) != (step.lost > 0) || disk.String() != step.has {
			t.Errorf("%q: %d are lost, %v: %q", step.text, lost, err, disk.String())
		}
	}
}
