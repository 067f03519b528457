package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

func newLog(t *testing.T, o Options) *Log {
	t.Helper()
	l := New(o)
	t.Cleanup(l.Close)
	return l
}

func (l *Log) put(t *testing.T, id string) {
	t.Helper()
	l.Write(&Entry{RequestID: id, Verdict: Allowed})
}

// wantIDs wants a file to have exactly these lines, each of which is whole.
func wantIDs(t *testing.T, file, want string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(string(text)) {
		var e Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil || !strings.HasSuffix(line, "\n") {
			ids = append(ids, "broken")
			continue
		}
		ids = append(ids, e.RequestID)
	}
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("%s has %q, want %q", filepath.Base(file), got, want)
	}
}

func (l *Log) wantLost(t *testing.T, want float64) {
	t.Helper()
	if got := testutil.ToFloat64(l.lost); got != want {
		t.Errorf("%v lines are lost, want %v", got, want)
	}
}

func use(t *testing.T, l *Log, file string) {
	t.Helper()
	if err := l.Use(file); err != nil {
		t.Fatal(err)
	}
}

// Whatever was written is in the file when Write returns, each line once and whole.
func TestLog_ManyAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit")
	l := newLog(t, Options{})
	if l.put(t, "before"); l.On() {
		t.Error("it is on without a file")
	}
	use(t, l, file)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for j := range 20 {
				id := fmt.Sprintf("%d-%d.", i, j)
				l.put(t, id)
				text, err := os.ReadFile(file)
				if err != nil || strings.Count(string(text), `"`+id+`"`) != 1 {
					t.Errorf("%s is not there once: %v", id, err)
				}
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(file)
	if err != nil || bytes.Count(text, []byte("\n")) != 1000 {
		t.Errorf("%d lines, %v", bytes.Count(text, []byte("\n")), err)
	}
	l.wantLost(t, 0)
}

// A file that was moved away is followed by a new one: at once when somebody says so
// (as logrotate does by a signal), within a second when nobody does.
func TestLog_Rotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "audit")
		l := newLog(t, Options{})
		use(t, l, file)
		move := func(to string) {
			t.Helper()
			if err := os.Rename(file, filepath.Join(dir, to)); err != nil {
				t.Fatal(err)
			}
		}
		l.put(t, "a")
		move("1")
		l.put(t, "b") // still there
		use(t, l, file)
		l.put(t, "c")
		move("2")
		time.Sleep(lookEvery)
		l.put(t, "d")
		if err := os.Truncate(file, 0); err != nil { // copytruncate
			t.Fatal(err)
		}
		l.put(t, "e")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		l.put(t, "f")
		wantIDs(t, filepath.Join(dir, "1"), "a b")
		wantIDs(t, filepath.Join(dir, "2"), "c")
		wantIDs(t, file, "f")
		other := filepath.Join(dir, "other")
		use(t, l, other)
		l.put(t, "g")
		use(t, l, "")
		l.put(t, "h")
		wantIDs(t, other, "g")
		l.wantLost(t, 0)
	})
}

// What another process left unfinished takes no line of this one with it.
func TestLog_EndsWithinALine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit")
	if err := os.WriteFile(file, []byte("{\"request_id\":\"a\"}\n{\"request_"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLog(t, Options{})
	use(t, l, file)
	l.put(t, "b")
	use(t, l, file)
	l.put(t, "c")
	wantIDs(t, file, "a broken b c")
}

// A full disk holds nobody up; what is lost is counted.
func TestLog_FullDisk(t *testing.T) {
	l := newLog(t, Options{})
	use(t, l, "/dev/full")
	for range 3 {
		l.put(t, "lost")
	}
	l.wantLost(t, 3)
	file := filepath.Join(t.TempDir(), "audit")
	use(t, l, file)
	l.put(t, "a")
	wantIDs(t, file, "a")
	l.wantLost(t, 3)
}

// What cannot be a file of lines is an error; once it can be one, it is used.
func TestLog_NoFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		pipe := filepath.Join(dir, "pipe")
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "folder", "audit")
		l := newLog(t, Options{})
		for i, bad := range []string{dir, pipe, file} {
			if err := l.Use(bad); err == nil || !strings.Contains(err.Error(), bad) {
				t.Errorf("%s: %v", bad, err)
			}
			if err := Check(bad); err == nil || !strings.Contains(err.Error(), filepath.Dir(bad)) {
				t.Errorf("checking %s: %v", bad, err)
			}
			l.put(t, "lost")
			l.wantLost(t, float64(i+1))
		}
		if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		before := Check(file)
		time.Sleep(lookEvery)
		l.put(t, "a")
		wantIDs(t, file, "a")
		if err := errors.Join(before, Check(file), Check(""), Check("-"), Check(os.DevNull)); err != nil {
			t.Error(err)
		}
		// A bad reload: the open one stays.
		if err := os.Chmod(filepath.Dir(file), 0); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() != 0 {
			if err := l.Use(file); err == nil {
				t.Error("the file can be opened")
			}
		}
		l.put(t, "b")
		if err := os.Chmod(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, file, "a b")
		l.wantLost(t, 3)
	})
}

// stuck is a reader that takes nothing until it is let go.
type stuck struct {
	bytes.Buffer
	free chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.free
	return s.Buffer.Write(p)
}

// One that hangs costs the requests under way a second, and those that follow nothing;
// what waited is written when it goes on, and what found no room is counted.
func TestLog_HangingReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := &stuck{free: make(chan struct{})}
		l := newLog(t, Options{Stdout: reader})
		use(t, l, "-")
		begin := time.Now()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { l.put(t, "first") })
		}
		all.Wait()
		if took := time.Since(begin); took != patience {
			t.Errorf("they waited for %v", took)
		}
		begin = time.Now()
		later := func(i int) *Entry { // each of its own organisation, whose shares are smaller
			return &Entry{RequestID: "later", Verdict: Allowed, Organisation: fmt.Sprintf("org-%06d", i)}
		}
		line, err := later(0).line()
		if err != nil {
			t.Fatal(err)
		}
		for i := range maxWaiting/len(line) + 100 {
			l.Write(later(i))
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("those that followed waited for %v", took)
		}
		if err := l.Use(filepath.Join(t.TempDir(), "audit")); err == nil {
			t.Error("another file is in use while the first one hangs")
		}
		lost := testutil.ToFloat64(l.lost)
		close(reader.free)
		synctest.Wait()
		lines := strings.Count(reader.String(), "\n")
		if lost < 50 || float64(lines)+lost != float64(5+maxWaiting/len(line)+100) {
			t.Errorf("%d lines are there, %v are lost", lines, lost)
		}
	})
}

// Strangers, and each organisation, write so much and no more; what is left out is
// counted, and told once in a minute. Others have all their lines.
func TestLog_Shares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		file := filepath.Join(t.TempDir(), "audit")
		l := newLog(t, Options{Logger: slog.New(slog.NewTextHandler(&said, nil))})
		use(t, l, file)
		write := func(n int, e Entry) {
			for range n {
				l.Write(&e)
			}
		}
		stranger, acme := Entry{RequestID: "stranger", Stranger: true}, Entry{RequestID: "a", Organisation: "acme", Verdict: Refused}
		wants := func(id string, want int) {
			t.Helper()
			text, err := os.ReadFile(file)
			if got := strings.Count(string(text), `"`+id+`"`); got != want || err != nil {
				t.Errorf("%d lines of %s, want %d: %v", got, id, want, err)
			}
		}
		write(strangersAtOnce+10, stranger)
		write(linesAtOnce+10, acme)
		write(linesAtOnce, Entry{RequestID: "nobody"})
		write(linesAtOnce, Entry{RequestID: "g", Organisation: "globex"})
		wants("stranger", strangersAtOnce)
		wants("a", linesAtOnce)
		wants("nobody", linesAtOnce)
		wants("g", linesAtOnce)
		l.wantLost(t, 20)
		time.Sleep(leftOutSaid)
		write(linesOfStrangersPerSecond*60+1, stranger)
		wants("stranger", strangersAtOnce+linesOfStrangersPerSecond*60)
		l.wantLost(t, 21)
		// What leaves always has its line, and is slowed down for it.
		taken, begun := Entry{RequestID: "taken", Organisation: "acme", Verdict: Allowed}, time.Now()
		write(linesAtOnce+10*linesPerSecond, acme)
		lost := 10 * linesPerSecond
		write(5*linesPerSecond, taken)
		wants("taken", 5*linesPerSecond)
		if took := time.Since(begun); took < 4*time.Second || took > 6*time.Second {
			t.Errorf("%d lines took %v", 5*linesPerSecond, took)
		}
		var many sync.WaitGroup
		begun = time.Now()
		for range 10 * linesPerSecond {
			many.Go(func() { l.Write(&taken) })
		}
		many.Wait()
		wants("taken", 15*linesPerSecond)
		if took := time.Since(begun); took > patience {
			t.Errorf("at once they took %v", took)
		}
		l.wantLost(t, float64(21+lost))
		if got := strings.Count(said.String(), "leaves out"); got != 4 || !strings.Contains(said.String(), "organisation=acme lines=1\n") || !strings.Contains(said.String(), "lines=10\n") {
			t.Errorf("it says %s", &said)
		}
	})
}

// People read the lines: what a message quotes stands there as it is.
func TestEntry_IsReadable(t *testing.T) {
	line, err := (&Entry{Message: "write <host> & \"port\""}).line()
	if err != nil || !strings.HasSuffix(string(line), `"message":"write <host> & \"port\""}`+"\n") {
		t.Errorf("%s %v", line, err)
	}
}

// A reader that is gone is as a full disk, and another one is used.
func TestLog_ReaderGone(t *testing.T) {
	var reader failing
	l := newLog(t, Options{Stdout: &reader})
	use(t, l, "-")
	l.put(t, "a")
	reader.err = errors.New("gone")
	l.put(t, "b")
	reader.err = nil
	l.put(t, "c")
	if text := reader.String(); strings.Count(text, "\n") != 2 || strings.Contains(text, `"b"`) {
		t.Errorf("%s", text)
	}
	l.wantLost(t, 1)
}

// failing fails with err. The goroutine is done with it when Write has returned.
type failing struct {
	bytes.Buffer
	err error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return f.Buffer.Write(p)
}
