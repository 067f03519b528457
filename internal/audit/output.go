package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/linewriter"
)

// lookEvery is how often a file that cannot be opened is tried again, and one that can
// is looked for under its name.
const lookEvery = time.Second

// output is where the lines go. Only the goroutine of a Log touches it.
type output struct {
	stdout io.Writer

	file    string // as it was named
	open    *os.File
	to      *linewriter.Writer // nil: it cannot be opened
	looked  time.Time
	why     error // why to is nil
	failing bool  // lines were lost when some were written last
}

// use opens file, also if it is in use.
func (o *output) use(file string) error {
	if o.file != file {
		o.close()
	}
	o.file, o.looked = file, time.Now()
	switch file {
	case "":
		o.close()
		return nil
	case "-":
		if o.to == nil {
			o.to = &linewriter.Writer{To: o.stdout}
		}
		return nil
	}
	f, torn, err := openFile(file)
	if err != nil {
		if o.to == nil {
			o.why = err
		}
		return fmt.Errorf("the audit's file: %w", err)
	}
	o.close()
	o.open, o.to = f, &linewriter.Writer{To: f, Torn: torn}
	return nil
}

// openFile opens a file to add lines to it. torn: it ends within a line, since the
// process that wrote it was ended there, or its disk was full.
func openFile(path string) (f *os.File, torn bool, err error) {
	// O_NONBLOCK: to open a pipe waits for somebody who reads it.
	f, err = os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if errors.Is(err, fs.ErrPermission) { // it may be one that is written only
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, false, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.Mode().IsRegular():
		var last [1]byte
		if info.Size() > 0 {
			_, err := f.ReadAt(last[:], info.Size()-1)
			torn = err != nil || last[0] != '\n'
		}
		return f, torn, nil
	case info.Mode()&fs.ModeCharDevice != 0:
		return f, false, nil
	default:
		err = notAFile(path)
	}
	return nil, false, errors.Join(err, f.Close())
}

func notAFile(path string) error {
	return &fs.PathError{Op: "open", Path: path, Err: errors.New("it is neither a file nor a device: name a file, or - for standard output")}
}

// Check says why lines could not be written to file by whoever asks, without making it.
func Check(file string) error {
	if file == "" || file == "-" {
		return nil
	}
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := unix.Access(filepath.Dir(file), unix.W_OK|unix.X_OK); err != nil {
			return &fs.PathError{Op: "making a file in", Path: filepath.Dir(file), Err: err}
		}
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular() && info.Mode()&fs.ModeCharDevice == 0:
		return notAFile(file)
	}
	if err := unix.Access(file, unix.W_OK); err != nil {
		return &fs.PathError{Op: "writing", Path: file, Err: err}
	}
	return nil
}

// write writes lines.
func (o *output) write(text []byte) (lost int, err error) {
	o.look()
	if o.to == nil {
		none := linewriter.Writer{To: missing{o.why}}
		return none.Write(text)
	}
	return o.to.Write(text)
}

// missing is a file that could not be opened.
type missing struct{ why error }

// Write says why.
func (m missing) Write([]byte) (int, error) { return 0, m.why }

// look opens the file again where it is not what its name says: it was moved away and
// nobody said so, or it could not be opened.
func (o *output) look() {
	if o.file == "" || o.file == "-" || time.Since(o.looked) < lookEvery {
		return
	}
	o.looked = time.Now()
	if o.open != nil {
		there, err := os.Stat(o.file)
		mine, mineErr := o.open.Stat()
		if err == nil && mineErr == nil && os.SameFile(there, mine) {
			return
		}
	}
	_ = o.use(o.file) // what is lost because of it is counted, and the first time is told
}

// close ends the use of what is open.
func (o *output) close() {
	if o.open != nil {
		_ = o.open.Close() // every line is written already
	}
	o.open, o.to, o.why = nil, nil, nil
}
