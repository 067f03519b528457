package nodetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// Log keeps what a berth writes to its standard error.
type Log struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

// NewLog is one with nothing in it.
func NewLog() *Log { return &Log{changed: make(chan struct{})} }

// Write keeps p.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.text.Write(p)
}

// Changes is closed at the next Write.
func (l *Log) Changes() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// String is everything so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Lines are the log lines so far, without what is none.
func (l *Log) Lines() []map[string]any {
	var all []map[string]any
	for line := range strings.Lines(l.String()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil {
			all = append(all, fields)
		}
	}
	return all
}

// Await waits until ok, which is asked at each line, at the latest when the berth has
// ended.
func (l *Log) Await(t testing.TB, ended <-chan struct{}, what string, ok func() bool) {
	t.Helper()
	for late := Soon(t).Done(); ; {
		changed := l.Changes()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-ended:
			if !ok() {
				t.Fatalf("berth ended before %s:\n%s", what, l)
			}
			return
		case <-late:
			t.Fatalf("waiting until %s:\n%s", what, l)
		}
	}
}

// AwaitAddresses waits until the berth says where it listens, and gives base URLs: of its
// listeners in the order of the configuration, and of its metrics.
func (l *Log) AwaitAddresses(t testing.TB, ended <-chan struct{}, listeners int) (doors []string, admin string) {
	t.Helper()
	l.Await(t, ended, "it serves", func() bool {
		doors, admin = nil, ""
		for _, line := range l.Lines() {
			switch line["msg"] {
			case "answering pulls":
				doors = append(doors, fmt.Sprint("http://", line["address"]))
			case "showing metrics":
				admin = fmt.Sprint("http://", line["address"])
			}
		}
		return len(doors) == listeners && admin != ""
	})
	return doors, admin
}
