package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"berth/oci"
)

var update = flag.Bool("update", false, "seal the test vectors anew")

const vectorsPath = "../../doc/fleet.json"

// vectors are what another program is tested against.
type vectors struct {
	About  string   `json:"about"`
	Scopes []vector `json:"scopes"`
}

type vector struct {
	Key    string `json:"key"`
	Public bool   `json:"public"`
	Origin string `json:"origin"`
	User   string `json:"user,omitempty"`
	Secret string `json:"secret,omitempty"`
	Kind   string `json:"kind"`
	Digest string `json:"digest"`
	// What comes of those.
	Fingerprint string `json:"fingerprint"`
	Naming      string `json:"naming_key"`
	Sealing     string `json:"sealing_key"`
	Name        string `json:"name"`
	Writing     string `json:"writing"`
	Part        int    `json:"part"`
	Size        int64  `json:"size"`
	Plain       string `json:"plain"`
	Sealed      string `json:"sealed"`
	Object      string `json:"object,omitempty"`
}

func (v *vector) scope(t *testing.T) (Key, Scope) {
	t.Helper()
	keys, err := ParseKeys([]byte(v.Key))
	if err != nil {
		t.Fatal(err)
	}
	if v.Public {
		return keys[0], Public(keys[0])
	}
	return keys[0], Private(keys[0], v.Origin, v.User, v.Secret)
}

func (v *vector) kind() oci.Kind {
	if v.Kind == oci.Manifest.String() {
		return oci.Manifest
	}
	return oci.Blob
}

// TestVectors holds this package to doc/fleet.json, and both to what doc.go says: the
// values are made again below from the primitives alone.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile(vectorsPath)
	if err != nil {
		t.Fatal(err)
	}
	var all vectors
	if err := json.Unmarshal(text, &all); err != nil || len(all.Scopes) < 3 {
		t.Fatalf("%d vectors, %v", len(all.Scopes), err)
	}
	for i := range all.Scopes {
		v := &all.Scopes[i]
		k, s := v.scope(t)
		w, err := ParseWriting(v.Writing)
		if err != nil {
			t.Fatal(err)
		}
		name := s.Name(v.Origin, v.kind(), oci.Digest(v.Digest))
		object := "" // a record has none
		if v.Part != Record {
			object = ObjectKey(name, w, v.Part)
		}
		if *update {
			v.Fingerprint, v.Name, v.Object = k.Fingerprint(), name, object
			v.Naming, v.Sealing = hex.EncodeToString([]byte(s.Reveal()[:32])), hex.EncodeToString([]byte(s.Reveal()[32:]))
			v.Sealed = hex.EncodeToString(s.Seal(nil, w, name, v.Part, v.Size, []byte(v.Plain)))
		}
		sealed, err := hex.DecodeString(v.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := s.Open(nil, w, name, v.Part, v.Size, sealed)
		if err != nil || string(plain) != v.Plain || name != v.Name || object != v.Object || k.Fingerprint() != v.Fingerprint {
			t.Errorf("vector %d: %q, %v, name %s, object %s, fingerprint %s", i, plain, err, name, object, k.Fingerprint())
		}
		v.again(t)
	}
	if *update {
		text, err = json.MarshalIndent(all, "", "  ")
		if err == nil {
			err = os.WriteFile(vectorsPath, append(text, '\n'), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// again makes the vector's values as doc.go describes them, with nothing of this package.
func (v *vector) again(t *testing.T) {
	t.Helper()
	field := func(x string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(x)))) + x }
	info := "public"
	if !v.Public {
		info = "private" + field(v.Origin) + field(v.User) + field(v.Secret)
	}
	key, err := hex.DecodeString(v.Key)
	if err != nil {
		t.Fatal(err)
	}
	keys := hkdfAgain(key, []byte("berth fleet 1"), info, 64)
	name := hex.EncodeToString(mac(keys[:32], []byte(field(v.Origin)+field(v.Kind)+field(v.Digest)))[:16])
	writing, err := hex.DecodeString(v.Writing)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(hkdfAgain(keys[32:], nil, "writing"+string(writing), 32))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := hex.DecodeString(v.Sealed)
	if err != nil || sealed[0] != 1 {
		t.Fatalf("%x, %v", sealed[0], err)
	}
	additional := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32([]byte("\x01"+name+string(writing)), uint32(v.Part)), uint64(v.Size))
	plain, err := gcm.Open(nil, sealed[1:13], sealed[13:], additional)
	if err != nil || string(plain) != v.Plain || name != v.Name || !bytes.Equal(append(unhex(t, v.Naming), unhex(t, v.Sealing)...), keys) {
		t.Errorf("by the description alone: %q, %v, name %s", plain, err, name)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mac(key, text []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return h.Sum(nil)
}

// hkdfAgain is RFC 5869 by its text.
func hkdfAgain(key, salt []byte, info string, length int) (out []byte) {
	if salt == nil {
		salt = make([]byte, sha256.Size)
	}
	prk := mac(salt, key)
	for i, last := byte(1), []byte(nil); len(out) < length; i++ {
		last = mac(prk, append(append(last, info...), i))
		out = append(out, last...)
	}
	return out[:length]
}
