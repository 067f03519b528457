package proof

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"berth/oci"
)

// TestMain runs a child of a test when asked to, else the tests.
func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		denyAndDie(path, os.Getenv(childDoes))
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, path string, o Options) *Proofs {
	t.Helper()
	f, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // those that the test closed are closed again
	return f
}

func closeFacts(t testing.TB, f *Proofs) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

var (
	digestA = oci.DigestOf([]byte("a"))
	digestB = oci.DigestOf([]byte("b"))

	acme   = Access{Origin: "reg.test-1", Principal: oci.Principal{Organisation: "acme", Fingerprint: "f1"}, Repo: "acme/app"}
	member = Member{Origin: "reg.test-1", Repo: "acme/app", Kind: oci.Manifest, Digest: digestA}
	latest = TagKey{Origin: "reg.test-1", Principal: acme.Principal, Repo: "acme/app", Tag: "latest"}
)

func wantAccess(t testing.TB, f *Proofs, a Access, want Age) {
	t.Helper()
	got, _ := f.Access(a)
	if got == Recent { // the first hour of grace: see TestDoubt
		got = Grace
	}
	if got != want {
		t.Fatalf("access of %s to %s is %s, want %s", a.Principal.Organisation, a.Repo, ageNames[got], ageNames[want])
	}
}

func wantMember(t testing.TB, f *Proofs, m Member, want Age) {
	t.Helper()
	if got := f.Member(m); got != want {
		t.Fatalf("membership is %s, want %s", ageNames[got], ageNames[want])
	}
}

func wantTag(t testing.TB, f *Proofs, k TagKey, d oci.Digest, want Age) {
	t.Helper()
	tag, got := f.Tag(k)
	if got != want || want != None && tag.Digest != d {
		t.Fatalf("the tag is %s and means %s, want %s and %s", ageNames[got], tag.Digest, ageNames[want], d)
	}
}

var ageNames = [...]string{None: "none", Grace: "grace", Recent: "recent", Fresh: "fresh"}

// Denied says whether the last answer about a was a denial.
func (f *Proofs) Denied(a Access) bool {
	w, _ := f.access.read("", a)
	return w.denied
}
