package oci

import (
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What may be a hostile document costs a few times its own size, whatever it is made
// of, and not a hundred bytes for each of its bytes.
func TestDecodeJSON_MemoryOfManySmallThings(t *testing.T) {
	const size = 4 << 20
	numbered := func(form string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			b.WriteString(strings.ReplaceAll(form, "#", strconv.Itoa(i)))
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	for name, c := range map[string]struct {
		doc  string
		want error
	}{
		"layers":          {`{"layers":[` + numbered("{},") + `]}`, ErrTooManyEntries},
		"manifests":       {`{"manifests":[` + numbered("{},") + `]}`, ErrTooManyEntries},
		"platforms":       {`{"manifests":[` + numbered(`{"platform":{}},`) + `]}`, ErrTooManyEntries},
		"urls":            {`{"layers":[{"urls":[` + numbered(`"",`) + `]}]}`, ErrTooManyEntries},
		"urls of several": {`{"layers":[` + strings.Repeat(`{"urls":[`+strings.Repeat(`"",`, 1000)+`""]},`, 1000) + `{}]}`, ErrTooManyEntries},
		"keys":            {`{"layers":[],` + numbered(`"#":0,`) + `}`, ErrTooManyEntries},
		"annotations":     {`{"layers":[],"annotations":{` + numbered(`"#":"",`) + `}}`, ErrTooManyEntries},
		"keys at depths":  {`{"layers":[]` + strings.Repeat(`,"a":0,"b":0,"c":0,"d":0,"e":{"x":0`, 9000) + strings.Repeat("}", 9001), ErrTooManyEntries},
		"unknown lists":   {`{"layers":[],"x":[` + numbered("{},") + `]}`, nil},
		"unknown type":    {`{"mediaType":"application/vnd.acme.thing.v1+json","layers":[` + numbered("{},") + `]}`, nil},
	} {
		data := []byte(c.doc)
		var err error
		got := allocated(func() { _, err = ParseManifest(data) })
		if !errors.Is(err, c.want) || err == nil && c.want != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if got > 6*size {
			t.Errorf("%s: %d bytes of JSON took %d of memory", name, len(data), got)
		}
	}
}

// As many entries as fit into a manifest of 4 MiB are read.
func TestDecodeJSON_ManyEntries(t *testing.T) {
	entry := `{"mediaType":"a/b","digest":"` + hex64 + `","size":1000000000}`
	n := (4<<20 - 20) / (len(entry) + 1)
	m, err := ParseManifest([]byte(`{"layers":[` + strings.Repeat(entry+",", n-1) + entry + `]}`))
	if err != nil || len(m.Layers) != n {
		t.Errorf("%d entries: %v", n, err)
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// What is decoded means the same to encoding/json, which takes keys in any case.
func TestDecodeJSON_AgreesWithReadersInAnyCase(t *testing.T) {
	type inner struct {
		A string            `json:"a"`
		M map[string]string `json:"m"`
	}
	type doc struct {
		A string `json:"a"`
		S string `json:"s"`
		I *inner `json:"i"`
		L []inner
		N int64 `json:"n,omitempty"`
	}
	key := rapid.SampledFrom([]string{"a", "A", "s", "S", "ſ", `\u0061`, "i", "I", "L", "l", "m", "M", "n", "x", "X", "\xff"})
	var value func(depth int) *rapid.Generator[string]
	value = func(depth int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			kinds := 5
			if depth == 0 {
				kinds = 3
			}
			switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
			case 0:
				return `"` + key.Draw(t, "text") + `"`
			case 1:
				return "null"
			case 2:
				return "7"
			case 3:
				return "[" + strings.Join(rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "list"), ",") + "]"
			}
			var members []string
			for range rapid.IntRange(0, 3).Draw(t, "members") {
				members = append(members, `"`+key.Draw(t, "key")+`":`+value(depth-1).Draw(t, "member"))
			}
			return "{" + strings.Join(members, ",") + "}"
		})
	}
	agreed := 0
	rapid.Check(t, func(t *rapid.T) {
		text := value(3).Draw(t, "document")
		exact, err := DecodeJSON[doc]([]byte(text))
		if err != nil {
			return
		}
		agreed++
		var loose doc
		if err := json.Unmarshal([]byte(text), &loose); err != nil || !reflect.DeepEqual(exact, loose) {
			t.Fatalf("%s is %+v, to others %+v, %v", text, exact, loose, err)
		}
	})
	if agreed == 0 {
		t.Error("nothing could be decoded")
	}
}
