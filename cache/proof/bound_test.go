package proof

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// heap is what is in use after everything that can go is gone.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Whoever asks for name after name, each as long as names may be, fills what
// there is for proofs, and no more.
func TestMemoryIsBounded(t *testing.T) {
	f := open(t, "", Options{})
	before := heap()
	now := time.Now()
	principal := oci.Principal{Organisation: "evil", Fingerprint: strings.Repeat("f", 32)}
	for i := range 40_000 {
		repo := fmt.Sprintf("%d/%s", i, strings.Repeat("r", 200))
		d := oci.DigestOf(fmt.Append(nil, i))
		f.Deny(Access{Origin: "registry", Principal: principal, Repo: repo})
		f.Prove(Access{Origin: "registry", Principal: principal, Repo: repo + "/2"}, Member{"registry", repo + "/2", oci.Manifest, d}, now)
		f.SetTag(TagKey{"registry", principal, repo + "/3", strings.Repeat("t", 128)}, Tag{MediaType: "m", Digest: d, Asked: now})
	}
	grown := heap() - before
	t.Logf("%d MiB", grown>>20)
	if grown > 64<<20 {
		t.Errorf("%d MiB for facts", grown>>20)
	}
	runtime.KeepAlive(f)
}

// Nor does the file grow without an end; what it has is renewed, and a denial is
// written also where there is no room.
func TestTheFileIsBounded(t *testing.T) {
	clk := ocitest.NewClock()
	path := filepath.Join(t.TempDir(), "facts.db")
	const limit = 1 << 20
	f := open(t, path, Options{FileBytes: limit, Now: clk.Now})
	f.Prove(acme, member, clk.Now())
	now := clk.Now()
	for i := range 20 {
		for j := range 1000 {
			repo := fmt.Sprintf("%d/%d/%s", i, j, strings.Repeat("r", 200))
			f.Prove(Access{Origin: "registry", Principal: oci.Principal{Organisation: "evil"}, Repo: repo}, Member{"registry", repo, oci.Manifest, digestA}, now)
		}
		if err := f.disk.flush(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 8*limit {
		t.Errorf("%d bytes", info.Size())
	}
	clk.Advance(time.Hour)
	f.Prove(acme, member, clk.Now())
	if err := f.disk.flush(); err != nil {
		t.Fatal(err)
	}
	denied := Access{Origin: "registry", Principal: oci.Principal{Organisation: "evil"}, Repo: fmt.Sprintf("0/0/%s", strings.Repeat("r", 200))}
	f.Deny(denied)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path, Options{Now: clk.Now})
	if _, at := again.Access(acme); !at.Equal(clk.Now()) {
		t.Errorf("what was renewed is from %v", at)
	}
	if !again.Denied(denied) {
		t.Error("the denial is not on disk")
	}
}
