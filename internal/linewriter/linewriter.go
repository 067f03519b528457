// Package linewriter writes whole lines to what may fail in the middle of one: a disk that is
// full, a pipe whose reader goes.
package linewriter

import (
	"bytes"
	"io"
)

// Writer writes lines to To, one caller at a time.
type Writer struct {
	To io.Writer
	// Torn says that what was written last ends within a line: then a line end comes
	// first, or the next line would go on behind half of another.
	Torn bool
}

// Write writes text, which is whole lines, and tells how many of them are not there,
// or only in part.
func (w *Writer) Write(text []byte) (lost int, err error) {
	if len(text) == 0 {
		return 0, nil
	}
	if w.Torn {
		if _, err := w.To.Write([]byte{'\n'}); err != nil {
			return count(text), err
		}
		w.Torn = false
	}
	n, err := w.To.Write(text)
	if err == nil {
		return 0, nil
	}
	n = min(max(n, 0), len(text))
	w.Torn = n > 0 && text[n-1] != '\n'
	return count(text[n:]), err
}

func count(text []byte) int { return bytes.Count(text, []byte{'\n'}) }
