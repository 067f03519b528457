package proof

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

var (
	noted    = NoteKey{Origin: "reg.test-1", Organisation: "acme", Repo: "acme/app", Tag: "latest"}
	notedToo = NoteKey{Origin: "reg.test-1", Organisation: "acme", Repo: "acme/app", Kind: oci.Blob, Digest: digestA}
)

func add(text string) func(string) string { return func(old string) string { return old + text } }

func tagsOf(t *testing.T, f *Proofs) []string {
	t.Helper()
	var all []string
	if err := f.NotedTags(t.Context(), func(k NoteKey, text string) {
		all = append(all, fmt.Sprintf("%s %s:%s %s", k.Organisation, k.Repo, k.Tag, text))
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestNotes_SurviveARestart(t *testing.T) {
	path := filepath.Join(ocitest.MemoryDir(t), "facts.db")
	c := ocitest.NewClock()
	f := open(t, path, Options{Now: c.Now})
	f.Noted(noted, true, add("1"))
	f.Noted(noted, true, add("2"))
	f.Noted(notedToo, false, add("3"))
	closeFacts(t, f)
	f = open(t, path, Options{Now: c.Now})
	if got := f.Note(noted) + f.Note(notedToo); got != "123" {
		t.Errorf("after a restart the notes are %q", got)
	}
	if got := tagsOf(t, f); !slices.Equal(got, []string{"acme acme/app:latest 12"}) {
		t.Errorf("the notes about tags are %q", got)
	}
	other := noted
	other.Organisation = "globex"
	if got := f.Note(other); got != "" {
		t.Errorf("another organisation sees %q", got)
	}
}

// Without a rule nothing is noted, and the file is as it always was.
func TestNotes_MakeTheirBucketWhenThereAreSome(t *testing.T) {
	path := filepath.Join(ocitest.MemoryDir(t), "facts.db")
	f := open(t, path, Options{})
	if f.Note(noted) != "" || len(tagsOf(t, f)) != 0 {
		t.Error("there is something in an empty file")
	}
	f.Prove(acme, member, time.Now())
	closeFacts(t, f)
	if f = open(t, path, Options{}); f.HadMember(member) {
		f.Noted(noted, false, add("x"))
	}
	closeFacts(t, f)
	if f = open(t, path, Options{}); f.Note(noted) != "x" || !f.HadMember(member) {
		t.Error("the file with a new bucket was not read")
	}
}

// A manifest that is pulled again changes no note about what it lists: nobody's proofs
// wait for that.
func TestNotes_WithoutAChangeTakeNoLock(t *testing.T) {
	f := open(t, filepath.Join(ocitest.MemoryDir(t), "facts.db"), Options{})
	f.Noted(noted, false, add("x"))
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := f.Noted(noted, false, add("")); got != "x" {
		t.Errorf("the note is %q", got)
	}
}

// What nothing renews goes after a month; a note in use is renewed without a change.
func TestNotes_AreDroppedWhenUnused(t *testing.T) {
	path := filepath.Join(ocitest.MemoryDir(t), "facts.db")
	c := ocitest.NewClock()
	for day := range 40 {
		f := open(t, path, Options{Now: c.Now})
		if day == 0 {
			f.Noted(noted, true, add("used"))
			f.Noted(notedToo, true, add("unused"))
		} else if day < 31 {
			f.Noted(noted, false, add(""))
		}
		closeFacts(t, f)
		c.Advance(24 * time.Hour)
	}
	f := open(t, path, Options{Now: c.Now})
	f.disk.sweep(make(chan struct{}))
	if f.Note(noted) != "used" || f.Note(notedToo) != "" {
		t.Errorf("the notes are %q and %q", f.Note(noted), f.Note(notedToo))
	}
}

func TestNotes_ForgettingAnOrganisationKeepsThem(t *testing.T) {
	f := open(t, filepath.Join(ocitest.MemoryDir(t), "facts.db"), Options{})
	f.Noted(noted, true, add("x"))
	if err := f.Forget("acme"); err != nil {
		t.Fatal(err)
	}
	if len(tagsOf(t, f)) != 1 {
		t.Error("a hold went with the rights")
	}
}
