package credential

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/secret"
)

// moody is a Source that may fail. It is comparable, as files are.
type moody struct {
	password string
	err      error
}

func (m *moody) Login(context.Context) (Login, error) {
	return Login{Username: secret.New("bot"), Password: secret.New(m.password)}, m.err
}

// That no file can be opened says nothing about a secret: the old one goes on, is not
// said to be bad, and the new one is read as soon as it can be. Without one the answer
// is that this node has no descriptor.
func TestCredentials_NoDescriptorLeft(t *testing.T) {
	source := &moody{password: "one"}
	entry := entryFor("acme", "ci", "ghcr.io")
	entry.Source = source
	var log bytes.Buffer
	now := time.Now()
	table := func() *Table {
		return mustCredentials(t, TableOptions{
			Key: NewKey(), Entries: []Entry{entry}, CheckEvery: time.Minute,
			Now: func() time.Time { return now }, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
	}
	c := table()
	lookup := func(c *Table) string {
		cred, err := c.Lookup(t.Context(), "acme", "", "ghcr.io", "acme/app")
		if err != nil {
			return err.Error()
		}
		return cred.Password.Reveal()
	}
	if got := lookup(c); got != "one" {
		t.Fatal(got)
	}
	source.password, source.err = "two", &fs.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}
	now = now.Add(2 * time.Minute)
	if got := lookup(c); got != "one" || log.Len() > 0 {
		t.Errorf("%s, and the log says %q", got, &log)
	}
	if got := lookup(table()); !strings.Contains(got, "no file descriptor left") {
		t.Errorf("without a secret: %s", got)
	}
	source.err = nil
	if got := lookup(c); got != "two" {
		t.Errorf("with descriptors again: %s", got)
	}
}

// A new configuration does not lose a secret because its file is unreadable just
// then, and shows a new one at once.
func TestCredentialsInherit(t *testing.T) {
	key, source := NewKey(), &moody{password: "one"}
	entry := entryFor("acme", "ci", "ghcr.io")
	entry.Source = source
	lookup := func(c *Table) (*Credential, error) {
		return c.Lookup(t.Context(), "acme", "", "ghcr.io", "acme/app")
	}
	first := mustCredentials(t, TableOptions{Key: key, Entries: []Entry{entry}})
	before, err := lookup(first)
	if err != nil {
		t.Fatal(err)
	}

	source.err = errors.New("half written")
	second := mustCredentials(t, TableOptions{Key: key, Entries: []Entry{entry}, Before: first})
	if got, err := lookup(second); err != nil || got != before {
		t.Errorf("the secret went with the table: %v, %v", got, err)
	}
	if problems := second.Check(t.Context()); len(problems) != 1 {
		t.Errorf("nobody says that it is unreadable: %v", problems)
	}

	source.err, source.password = nil, "two"
	third := mustCredentials(t, TableOptions{Key: key, Entries: []Entry{entry}, Before: second})
	if got, err := lookup(third); err != nil || !got.Password.Equal(secret.New("two")) || got.Fingerprint == before.Fingerprint {
		t.Errorf("the new secret is not seen: %v, %v", got, err)
	}

	for name, change := range map[string]func(*Entry){
		"source":       func(e *Entry) { e.Source = &moody{err: errors.New("no file")} },
		"name":         func(e *Entry) { e.Name = "other" },
		"organisation": func(e *Entry) { e.Organisation = "globex" },
		"origin":       func(e *Entry) { e.Origin.Owner = "acme" },
		"function": func(e *Entry) {
			e.Source = SourceFunc(func(context.Context) (Login, error) { return Login{}, errors.New("no") })
		},
	} {
		changed := entry
		change(&changed)
		source.err = errors.New("gone")
		c := mustCredentials(t, TableOptions{Key: key, Entries: []Entry{changed}, Before: third})
		if got, err := c.Lookup(t.Context(), changed.Organisation, "", "ghcr.io", "acme/app"); err == nil {
			t.Errorf("%s: another entry has its secret: %v", name, got)
		}
		same := mustCredentials(t, TableOptions{Key: key, Entries: []Entry{changed}, Before: c})
		if _, err := same.Lookup(t.Context(), changed.Organisation, "", "ghcr.io", "acme/app"); err == nil {
			t.Errorf("%s: a secret came from nowhere", name)
		}
	}
}
