package proof

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"berth/internal/ocitest"
	"berth/oci"
)

// golden reads testdata/member.golden: what versions before this one wrote, and
// versions after it will.
func golden(t *testing.T) (m Member, asked time.Time, key, value []byte) {
	t.Helper()
	data, err := os.ReadFile("testdata/member.golden")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, text, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(line, "#") {
			fields[name] = text
		}
	}
	digest, err1 := oci.ParseDigest(fields["digest"])
	asked, err2 := time.Parse(time.RFC3339Nano, fields["asked"])
	key, err3 := hex.DecodeString(fields["key"])
	value, err4 := hex.DecodeString(fields["value"])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	if d := (oci.Origin{Scheme: "https", Host: "ghcr.io"}).Dir(); d != fields["origin"] {
		t.Errorf("the folder of ghcr.io is %s, not %s", d, fields["origin"])
	}
	return Member{Origin: fields["origin"], Repo: fields["repository"], Kind: oci.Blob, Digest: digest}, asked, key, value
}

// What is written of a membership never changes its form: who goes back to an
// earlier version, or forth to a later one, needs it. If this fails, the code is
// wrong and not the file: see migrate.go for what a version does that needs more.
func TestTheFormOfMembershipsIsFrozen(t *testing.T) {
	m, asked, key, value := golden(t)
	path := filepath.Join(t.TempDir(), "facts.db")
	clk := ocitest.NewClock()
	f := open(t, path, Options{Now: clk.Now})
	f.Prove(acme, m, asked)
	closeFacts(t, f)

	principal(t, path, func(tx *bbolt.Tx) {
		b := tx.Bucket([]byte("member"))
		if b == nil {
			t.Fatal("the bucket is gone")
		}
		k, v := b.Cursor().First()
		if !bytes.Equal(k, key) {
			t.Errorf("key is\n%x, not\n%x", k, key)
		}
		if !bytes.Equal(v, value) {
			t.Errorf("value is\n%x, not\n%x", v, value)
		}
		if v := tx.Bucket([]byte("meta")).Get([]byte("version")); string(v) != version {
			t.Errorf("version is %q", v)
		}
	})
}

func principal(t *testing.T, path string, look func(*bbolt.Tx)) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		look(tx)
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// later makes the file at path one of a later version: with the memberships that
// are in it, its own form of rights, and buckets that we do not know.
func later(t *testing.T, path string, more func(*bbolt.Tx) error) {
	t.Helper()
	bolt(t, func(tx *bbolt.Tx) error {
		meta, err1 := tx.CreateBucketIfNotExists([]byte("meta"))
		_, err2 := tx.CreateBucketIfNotExists([]byte("member"))
		its, err3 := tx.CreateBucketIfNotExists([]byte("epochs"))
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		nested, err := its.CreateBucket([]byte("nested"))
		if err != nil {
			return err
		}
		return errors.Join(
			meta.Put([]byte("version"), []byte("2")),
			meta.Put([]byte("epoch"), []byte("7")),
			its.Put([]byte("acme"), []byte("7")),
			nested.Put([]byte("acme"), []byte("7")),
			more(tx))
	})(t, path)
}

func nothingMore(*bbolt.Tx) error { return nil }

// What a later version proved of contents counts, written by none of our code.
func TestALaterVersionsMembershipsCount(t *testing.T) {
	m, asked, key, value := golden(t)
	path := filepath.Join(t.TempDir(), "facts.db")
	later(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("member")).Put(key, value) })
	clk := ocitest.NewClock()
	f := open(t, path, Options{Now: clk.Now})
	wantMember(t, f, m, Fresh)
	if asked.Add(24 * time.Hour).Before(clk.Now()) {
		t.Fatal("the clock is not of the golden file's day")
	}
	clk.Advance(24 * time.Hour)
	wantMember(t, f, m, None) // it ages as ours do
	closeFacts(t, f)

	principal(t, path, func(tx *bbolt.Tx) {
		_ = tx.ForEach(func(name []byte, _ *bbolt.Bucket) error { // its error is ours
			if !strings.Contains("access member tag meta by", string(name)) {
				t.Errorf("%s is still there", name)
			}
			return nil
		})
		if meta := tx.Bucket([]byte("meta")); string(meta.Get([]byte("version"))) != version || meta.Get([]byte("epoch")) != nil {
			t.Error("meta is not ours")
		}
	})
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Error("it was moved aside")
	}
	works(t, path)
}

// Rights and tags of another version count for nothing, also where they look like
// ours: what it took back may stand in a bucket that we cannot read.
func TestAnotherVersionsRightsDoNotCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "facts.db")
	f := open(t, path, Options{})
	denied := acme
	denied.Principal.Organisation = "globex"
	f.Prove(acme, member, time.Now())
	f.Prove(denied, member, time.Now())
	f.Deny(denied)
	f.SetTag(latest, Tag{Digest: digestA, Asked: time.Now()})
	closeFacts(t, f)
	later(t, path, nothingMore)

	f = open(t, path, Options{})
	for _, a := range []Access{acme, denied} {
		wantAccess(t, f, a, None)
		if f.HadAccess(a) {
			t.Errorf("%s had access", a.Principal.Organisation)
		}
	}
	wantTag(t, f, latest, "", None)
	wantMember(t, f, member, Fresh)
	// Nor do they come back with the one after this.
	closeFacts(t, f)
	f = open(t, path, Options{})
	wantAccess(t, f, acme, None)
	f.Prove(denied, member, time.Now())
	wantAccess(t, f, denied, Fresh)
}

// Who cannot read a word has no proof.
func TestUnknownWordsOfMembershipProveNothing(t *testing.T) {
	m, _, key, value := golden(t)
	for name, v := range map[string][]byte{
		"empty":          {},
		"cut":            value[:8],
		"longer":         append(bytes.Clone(value), 1),
		"another mark":   append([]byte{'q'}, value[1:]...),
		"a denial":       append([]byte{'d'}, value[1:]...),
		"JSON":           []byte(`{"p":1772366400000000000}`),
		"in the future":  binary.BigEndian.AppendUint64([]byte{'p'}, uint64(ocitest.NewClock().Now().Add(100*time.Hour).UnixNano())),
		"before history": binary.BigEndian.AppendUint64([]byte{'p'}, 0),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(ocitest.MemoryDir(t), "facts.db")
			later(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("member")).Put(key, v) })
			f := open(t, path, Options{Now: ocitest.NewClock().Now})
			wantMember(t, f, m, None)
		})
	}
}

// A crash while the file is taken over leaves one version or the other, and damage
// costs questions only.
func TestDamageInALaterVersionsFile(t *testing.T) {
	dir := ocitest.MemoryDir(t)
	whole := filepath.Join(dir, "facts.db")
	full(t, whole, 300)
	later(t, whole, nothingMore)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	var adopted, aside int
	for page := 2; page < len(data)/4096; page++ {
		bad := bytes.Clone(data)
		copy(bad[page*4096:][:4096], noise(4096))
		path := filepath.Join(dir, "bad.db")
		write(bad)(t, path)
		useDamaged(t, path)
		if os.Remove(path+".damaged") == nil {
			aside++
		} else {
			adopted++
		}
		_ = os.Remove(path) // it may be gone
	}
	t.Logf("%d were taken over, %d moved aside", adopted, aside)
	if adopted == 0 || aside == 0 {
		t.Error("this tests less than it should")
	}
}
