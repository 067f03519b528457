package store

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// Whenever the process is killed: every file under a blob's name is whole, what
// was said to be published is there, and tmp is emptied at the next start.
func TestKilledAnywhere(t *testing.T) {
	for seed := range rounds(t, 20) {
		t.Setenv(childSeed, fmt.Sprint(seed))
		dir := ocitest.MemoryDir(t)
		out, end := runChild(t, "die", dir)
		if end.Signal() != syscall.SIGKILL {
			t.Fatalf("seed %d: the child was to be killed: %s", seed, out)
		}
		s := open(t, dir, Options{})
		wantClean(t, s)
		wantWhole(t, s)
		for line := range strings.Lines(out) {
			digest, ok := strings.CutPrefix(strings.TrimSpace(line), "kept ")
			if !ok {
				t.Errorf("seed %d: %s", seed, line)
			} else if _, ok := s.has(here, oci.Digest(digest)); !ok {
				t.Errorf("seed %d: %s is lost", seed, digest)
			}
		}
		closeStore(t, s)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// wantWhole hashes all blobs.
func wantWhole(t *testing.T, s *Store) {
	t.Helper()
	for _, e := range s.capacity.everything(t) {
		data, err := os.ReadFile(e.path)
		if err != nil || oci.DigestOf(data).Encoded() != filepath.Base(e.path) {
			t.Errorf("%s has %d bytes of something else; %v", e.path, len(data), err)
		}
	}
}

// strace runs the publishing child under strace, which logs or spoils its
// syscalls.
func strace(t *testing.T, dir string, options ...string) (out, log string) {
	t.Helper()
	program, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("no strace:", err)
	}
	logFile := filepath.Join(t.TempDir(), "log")
	out, _ = runChild(t, "publish", dir, append([]string{program, "-f", "-y", "-s", "16", "-o", logFile}, options...)...)
	data, err := os.ReadFile(logFile)
	if err != nil || len(data) == 0 {
		t.Skip("strace may not trace here:", err)
	}
	return out, string(data)
}

// syscallMade is a line of strace's log, or two of them that belong together.
type syscallMade struct {
	text       string
	begun, end int // lines
}

var resumed = regexp.MustCompile(`^<\.\.\. \w+ resumed>`)

func parse(log string) (all []syscallMade) {
	open := map[string]int{} // by thread: which call is unfinished
	for i, line := range strings.Split(log, "\n") {
		thread, text, _ := strings.Cut(line, " ")
		text = strings.TrimSpace(text)
		if at, ok := open[thread]; ok && resumed.MatchString(text) {
			all[at].text += resumed.ReplaceAllString(text, "")
			all[at].end = i
			delete(open, thread)
			continue
		}
		if before, unfinished := strings.CutSuffix(text, "<unfinished ...>"); unfinished {
			open[thread] = len(all)
			text = before
		}
		all = append(all, syscallMade{text, i, i})
	}
	return all
}

// Written, synced, renamed, and its folder synced, in this order; and every
// folder on the way was synced into its parent.
func TestTheOrderOfPublishing(t *testing.T) {
	rounds(t, 1)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, log := strace(t, dir, "-e", "trace=pwrite64,write,fsync,fdatasync,rename,renameat,renameat2,linkat,mkdir,mkdirat")
	calls := parse(log)
	find := func(pattern string) (found []syscallMade) {
		re := regexp.MustCompile(pattern)
		for _, c := range calls {
			if re.MatchString(c.text) {
				found = append(found, c)
			}
		}
		return found
	}
	only := func(what, pattern string) syscallMade {
		t.Helper()
		found := find(pattern)
		if len(found) != 1 {
			t.Fatalf("%d times %s:\n%s", len(found), what, log)
		}
		return found[0]
	}
	before := func(what string, a, b syscallMade) {
		t.Helper()
		if a.end >= b.begun {
			t.Errorf("not in order: %s:\n%s\n%s", what, a.text, b.text)
		}
	}
	hex := oci.DigestOf(childBlob()).Encoded()
	quoted := regexp.QuoteMeta(dir)
	final := quoted + "/blobs/" + here + "/sha256/" + hex[:2]
	rename := only("renamed", `^rename.*"`+quoted+`/tmp/[^"]*".*"`+final+"/"+hex+`".*= 0$`)
	file := only("the file synced", `^f(data)?sync\(\d+<`+quoted+`/tmp/[^>]*>\) += 0`)
	folder := find(`^fsync\(\d+<` + final + `>\) += 0`)
	if len(folder) == 0 {
		t.Fatalf("the folder was never synced:\n%s", log)
	}
	writes := find(`^pwrite64\(\d+<` + quoted + `/tmp/`)
	if len(writes) == 0 {
		t.Fatalf("no writes:\n%s", log)
	}
	for _, w := range writes {
		before("written, then synced", w, file)
	}
	before("synced, then renamed", file, rename)
	before("renamed, then the folder synced", rename, folder[len(folder)-1])
	before("the folder synced, then said to be published", folder[len(folder)-1], only("said", `^write\(1<.*"{\\"Err\\"`))
	for _, made := range find(`^mkdir.*"` + quoted + `/blobs/.*= 0$`) {
		path := regexp.MustCompile(`"(.*)"`).FindStringSubmatch(made.text)[1]
		synced := false
		for _, s := range find(`^fsync\(\d+<` + regexp.QuoteMeta(filepath.Dir(path)) + `>\) += 0`) {
			synced = synced || s.begun > made.end && s.end < rename.begun
		}
		if !synced {
			t.Errorf("%s was not synced into its parent before something was put into it", path)
		}
	}
}

// Any call may fail, the first time or the tenth. Then the blob is published in
// full, or there is an error and nothing of it, and the process goes on.
func TestEveryCallMayFail(t *testing.T) {
	calls := []string{
		"fsync:error=EIO", "/^rename:error=EIO", "/^mkdir:error=EMFILE", "pwrite64:error=ENOSPC", "ftruncate:error=EDQUOT",
		"fsync:signal=KILL", "/^rename:signal=KILL", "/^mkdir:signal=KILL",
	}
	if rounds(t, 0) > 0 {
		calls = append(calls, "openat:error=EMFILE")
	}
	for _, call := range calls {
		t.Run(call, func(t *testing.T) {
			hit := 0
			for failOne(t, fmt.Sprintf("%s:when=%d", call, hit+1)) {
				hit++
			}
			if hit == 0 {
				t.Error("nothing was made to fail")
			}
			t.Logf("%d calls failed, one at a time", hit)
		})
	}
}

// failOne runs the child with one call spoilt and says whether it got so far.
func failOne(t *testing.T, spoil string) (hit bool) {
	t.Helper()
	dir := ocitest.MemoryDir(t)
	name, _, _ := strings.Cut(spoil, ":")
	out, log := strace(t, dir, "-e", "trace="+name, "-e", "inject="+spoil)
	killed := strings.Contains(log, "killed by SIGKILL")
	hit = strings.Contains(log, "(INJECTED)") || killed
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil && !killed {
		t.Fatalf("%s: the child said %q: %v", spoil, out, err)
	}
	s := open(t, dir, Options{})
	defer closeStore(t, s)
	wantWhole(t, s)
	wantClean(t, s)
	size := int64(len(childBlob()))
	n, there := s.has(here, oci.DigestOf(childBlob()))
	switch {
	case killed:
	case r.Err == "" && (n != size || r.Usage != Usage{Bytes: size, Blobs: 1}):
		t.Errorf("%s: no error, but %d bytes are there: %+v", spoil, n, r)
	case r.Err != "" && (there || r.Usage != Usage{}):
		t.Errorf("%s: an error, and something stays: there %v, %+v", spoil, there, r)
	case len(r.Tmp) > 0:
		t.Errorf("%s: tmp holds %v", spoil, r.Tmp)
	case hit != (r.Err != "") && !strings.HasPrefix(spoil, "open"):
		t.Errorf("%s: hit %v, and the child said %q", spoil, hit, r.Err)
	}
	return hit
}
