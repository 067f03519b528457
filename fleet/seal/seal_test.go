package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"berth/oci"
)

func testKey(seed byte) Key {
	var b [KeySize]byte
	for i := range b {
		b[i] = seed + byte(i)*3
	}
	return NewKey(b)
}

var testDigest = oci.DigestOf([]byte("x"))

func TestKey_ParsesOneOrTwo(t *testing.T) {
	one, two := testKey(1), testKey(2)
	inHex, in64 := hex.EncodeToString([]byte(one.Reveal())), base64.StdEncoding.EncodeToString([]byte(two.Reveal()))
	for _, c := range []struct {
		file string
		want []Key
		says string
	}{
		{file: inHex, want: []Key{one}},
		{file: in64 + "\n", want: []Key{two}},
		{file: strings.ToUpper(inHex) + "\r\n\n  " + in64 + " \n", want: []Key{one, two}},
		{file: "", says: "no key in it"},
		{file: " \n", says: "no key in it"},
		{file: inHex + "\n" + inHex, says: "the same"},
		{file: inHex + "\n" + in64 + "\n" + inHex, says: "two keys at most"},
		{file: inHex[1:], says: "key 1: not 32 bytes"},
		{file: in64 + "\n" + "z" + inHex[1:], says: "key 2: not 32 bytes"},
		{file: in64[:43] + "A", says: "not 32 bytes"}, // 33 bytes
		{file: "!" + in64[1:], says: "not 32 bytes"},
		{file: strings.Repeat("00", 32), says: "no key"},
		{file: one.Reveal(), says: "not 32 bytes"}, // as they are
	} {
		keys, err := ParseKeys([]byte(c.file))
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q: %v, want an error that says %q", c.file, err, c.says)
			} else if len(c.file) > 20 && strings.Contains(err.Error(), c.file[5:15]) {
				t.Errorf("%q: the error shows the key: %v", c.file, err)
			}
			continue
		}
		if err != nil || len(keys) != len(c.want) {
			t.Errorf("%q: %d keys, %v", c.file, len(keys), err)
			continue
		}
		for i := range keys {
			if !keys[i].Equal(c.want[i].Text) {
				t.Errorf("%q: key %d is another one", c.file, i+1)
			}
		}
	}
}

func TestKey_DoesNotPrint(t *testing.T) {
	k := testKey(7)
	s := Private(k, "o", "u", "the-secret")
	var out bytes.Buffer
	for _, v := range []any{k, &k, s, &s, struct{ k Key }{k}, struct{ s Scope }{s}, []Key{k}, map[string]Scope{"a": s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
	}
	for _, bad := range []string{k.Reveal()[:4], s.Reveal()[:4], s.Reveal()[32:36]} {
		for _, form := range []string{bad, hex.EncodeToString([]byte(bad)), strings.Trim(fmt.Sprintf("%d", []byte(bad)), "[]")} {
			if strings.Contains(strings.ToLower(out.String()), form) {
				t.Errorf("a key shows as %q", form)
			}
		}
	}
	if strings.Contains(out.String(), "the-secret") {
		t.Error("the account's secret shows")
	}
}

// A scope is told by each of its inputs, and by where one ends and the next begins.
func TestScope_OneForEachKeyOriginUserAndSecret(t *testing.T) {
	a, b := testKey(1), testKey(2)
	scopes := map[string]Scope{
		"public": Public(a), "public of another fleet": Public(b),
		"private": Private(a, "https://r", "u", "s"), "another key": Private(b, "https://r", "u", "s"),
		"another origin": Private(a, "https://q", "u", "s"), "another user": Private(a, "https://r", "v", "s"),
		"another secret": Private(a, "https://r", "u", "t"), "split elsewhere": Private(a, "https://r", "us", ""),
		"nobody": Private(a, "", "", ""),
	}
	names, ids := map[string]string{}, map[string]string{}
	for what, s := range scopes {
		for _, n := range []string{
			s.Name("https://r", oci.Blob, testDigest), s.Name("https://r", oci.Manifest, testDigest),
			s.Name("https://q", oci.Blob, testDigest), s.Name("https://r", oci.Blob, oci.DigestOf(nil)),
		} {
			if other, taken := names[n]; taken {
				t.Errorf("%s and %s have one name for two objects", what, other)
			}
			names[n] = what
		}
		if other, taken := ids[s.ID()]; taken {
			t.Errorf("%s and %s have one id", what, other)
		}
		ids[s.ID()] = what
	}
	if Public(a).Name("o", oci.Blob, testDigest) != Public(testKey(1)).Name("o", oci.Blob, testDigest) {
		t.Error("two nodes with one key give an object two names")
	}
}

func TestSeal_OpensOnlyWhereItWasSealed(t *testing.T) {
	s, w := Private(testKey(1), "o", "u", "s"), NewWriting()
	name := s.Name("o", oci.Blob, testDigest)
	other := s.Name("o", oci.Manifest, testDigest)
	plain := []byte("these bytes")
	sealed := s.Seal(nil, w, name, 3, 4<<20, plain)
	if len(sealed) != len(plain)+Overhead || bytes.Contains(sealed, plain) {
		t.Fatalf("%d bytes: %q", len(sealed), sealed)
	}
	if again := s.Seal(nil, w, name, 3, 4<<20, plain); bytes.Equal(again, sealed) {
		t.Error("sealing twice gave one text: the nonce is not random")
	}
	got, err := s.Open([]byte("before "), w, name, 3, 4<<20, sealed)
	if err != nil || string(got) != "before these bytes" {
		t.Fatalf("%q, %v", got, err)
	}
	w2 := w
	w2[15] ^= 1
	for what, open := range map[string]func() ([]byte, error){
		"another scope":   func() ([]byte, error) { return Public(testKey(1)).Open(nil, w, name, 3, 4<<20, sealed) },
		"no scope":        func() ([]byte, error) { return Scope{}.Open(nil, w, name, 3, 4<<20, sealed) },
		"another writing": func() ([]byte, error) { return s.Open(nil, w2, name, 3, 4<<20, sealed) },
		"another object":  func() ([]byte, error) { return s.Open(nil, w, other, 3, 4<<20, sealed) },
		"another part":    func() ([]byte, error) { return s.Open(nil, w, name, 4, 4<<20, sealed) },
		"a record":        func() ([]byte, error) { return s.Open(nil, w, name, Record, 4<<20, sealed) },
		"another size":    func() ([]byte, error) { return s.Open(nil, w, name, 3, 4<<20-1, sealed) },
	} {
		if b, err := open(); !errors.Is(err, ErrNotOpened) || b != nil {
			t.Errorf("%s: %q, %v", what, b, err)
		}
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1 << (i % 8)
		if _, err := s.Open(nil, w, name, 3, 4<<20, changed); !errors.Is(err, ErrNotOpened) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := s.Open(nil, w, name, 3, 4<<20, sealed[:i]); !errors.Is(err, ErrNotOpened) {
			t.Errorf("cut to %d: %v", i, err)
		}
	}
	if _, err := s.Open(nil, w, name, 3, 4<<20, append(sealed, 0)); !errors.Is(err, ErrNotOpened) {
		t.Errorf("with a byte more: %v", err)
	}
}

// FuzzOpen looks for an input that opens, and not as what was sealed for its place. What
// was sealed for the place, and what was sealed for others, are among the seeds, so that
// the fuzzer cuts and mixes real ones. It runs in several processes, each of which draws
// nonces of its own: so the text counts, and not the sealed bytes.
func FuzzOpen(f *testing.F) {
	s := Private(testKey(1), "o", "u", "s")
	name, w := s.Name("o", oci.Blob, testDigest), Writing{1, 2, 3}
	plains := []string{"", "a", strings.Repeat("b", 100)}
	for part, plain := range plains {
		f.Add(s.Seal(nil, w, name, part, 200, []byte(plain)), part, int64(200))
		f.Add(Public(testKey(1)).Seal(nil, w, name, part, 200, []byte(plain)), part, int64(200))
	}
	f.Fuzz(func(t *testing.T, b []byte, part int, size int64) {
		// Part numbers are 32 bits in the additional data, and far fewer are in use.
		if part < Record || part >= MaxParts || size < 0 || size > MaxSize {
			t.Skip()
		}
		before := bytes.Clone(b)
		plain, err := s.Open(nil, w, name, part, size, b)
		if err == nil && (size != 200 || part < 0 || part >= len(plains) || string(plain) != plains[part]) {
			t.Fatalf("part %d of %d, %x: opened as %q", part, size, before, plain)
		}
		if !bytes.Equal(b, before) {
			t.Fatal("Open changed its input")
		}
	})
}

// The parts of an object lie end to end, from its first byte to its last.
func TestPart_CoverTheObject(t *testing.T) {
	check := func(size int64) error {
		var at int64
		n := Parts(size)
		for p := range n {
			from, to := Range(p, size)
			switch {
			case from != at || to <= from:
				return fmt.Errorf("part %d of %d is [%d,%d), after byte %d", p, n, from, to, at)
			case PartAt(from) != p || PartAt(to-1) != p:
				return fmt.Errorf("part %d holds [%d,%d), and those bytes are said to be in %d and %d", p, from, to, PartAt(from), PartAt(to-1))
			case to-from > BigPart || to <= BigPart && to-from > SmallPart:
				return fmt.Errorf("part %d has %d bytes", p, to-from)
			}
			at = to
		}
		if at != size {
			return fmt.Errorf("%d parts end at %d", n, at)
		}
		return nil
	}
	for _, size := range []int64{0, 1, SmallPart - 1, SmallPart, SmallPart + 1, BigPart - 1, BigPart, BigPart + 1, 2 * BigPart, 2*BigPart + 1, 100<<20 + 7} {
		if err := check(size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if size := rapid.Int64Range(0, 1<<30).Draw(t, "size"); check(size) != nil {
			t.Fatal(check(size))
		}
	})
	if Parts(MaxSize) != MaxParts || Parts(BigPart) != 8 || Parts(BigPart+1) != 9 || Parts(-1) != 0 {
		t.Errorf("%d parts at most, %d and %d around the big ones", Parts(MaxSize), Parts(BigPart), Parts(BigPart+1))
	}
}

func TestWriting_HasOneSpelling(t *testing.T) {
	w := NewWriting()
	if got, err := ParseWriting(w.String()); err != nil || got != w || w == NewWriting() {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("0", 33), strings.Repeat("zz", 16), strings.Repeat("AB", 16), w.String() + " "} {
		if _, err := ParseWriting(bad); err == nil {
			t.Errorf("%q is taken for a writing", bad)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	s, w := Public(testKey(1)), NewWriting()
	name := s.Name("o", oci.Blob, testDigest)
	plain := make([]byte, BigPart)
	_, _ = rand.Read(plain)
	dst := make([]byte, 0, BigPart+Overhead)
	b.SetBytes(BigPart)
	for b.Loop() {
		dst = s.Seal(dst[:0], w, name, 9, MaxSize, plain)
	}
}

func BenchmarkOpen(b *testing.B) {
	s, w := Public(testKey(1)), NewWriting()
	name := s.Name("o", oci.Blob, testDigest)
	sealed := s.Seal(nil, w, name, 9, MaxSize, make([]byte, BigPart))
	dst := make([]byte, 0, BigPart)
	b.SetBytes(BigPart)
	for b.Loop() {
		if _, err := s.Open(dst, w, name, 9, MaxSize, sealed); err != nil {
			b.Fatal(err)
		}
	}
}
