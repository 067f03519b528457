package main

import (
	"bytes"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/bench/internal/source"
)

// TestWalk_Small: a program whose functions are known is built, run and counted, beside
// a client that asks a port of 127.0.0.1 again and again, whoever has it now.
func TestWalk_Small(t *testing.T) {
	t.Parallel()
	small := func(_, address, upstream string) ([]string, error) {
		_, port, err := net.SplitHostPort(address)
		go func() {
			for t.Context().Err() == nil {
				_, _ = get(t.Context(), "http://127.0.0.1:"+port+"/") // nobody may be there
				time.Sleep(10 * time.Millisecond)
			}
		}()
		return []string{address, upstream, user, password}, err
	}
	r, err := measure(t.Context(), subject{module: "testdata/small", program: ".", command: small}, 2)
	if err != nil {
		t.Fatal(err)
	}
	cold := []string{"main.go answer", "main.go answer.func1", "main.go fetch", "main.go read x2", "main.go token", "store/store.go Get", "store/store.go Get.func1"}
	warm := []string{"main.go answer", "store/store.go Get", "store/store.go hit"}
	want := map[string][]string{"manifest by tag, cold": cold, "manifest by tag, warm": warm, "blob 6 MiB, cold": cold, "blob 6 MiB, warm": warm}
	if len(r.walks) != len(want) {
		t.Errorf("%d walks, want %d", len(r.walks), len(want))
	}
	for _, k := range r.walks {
		var got []string
		for f, n := range k.calls {
			line := f.path + " " + f.Name
			if n > 1 {
				line += " x2"
			}
			got = append(got, line)
		}
		slices.Sort(got)
		if !slices.Equal(got, want[k.name]) {
			t.Errorf("%s ran through %q, want %q", k.name, got, want[k.name])
		}
	}
	var out bytes.Buffer
	if err := report(&out, r, true); err != nil {
		t.Fatal(err)
	}
	table := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{"in the program 12 3 2 2", "blob 6 MiB, warm main.go 34 answer store/store.go 9 Get 18 hit"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestWalk_Broken: a subject that does not do what a cache should is an error, not a
// figure.
func TestWalk_Broken(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]func(string, string, string) ([]string, error){
		"ends at once": func(_, _, upstream string) ([]string, error) {
			return []string{"127.0.0.1:-1", upstream, user, password}, nil
		},
		"is refused upstream": func(_, address, upstream string) ([]string, error) {
			return []string{address, upstream, user, "wrong"}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := measure(t.Context(), subject{module: "testdata/small", program: ".", command: command}, 1)
			if err == nil {
				t.Error("it was measured")
			}
		})
	}
	up, err := startRegistry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer up.close()
	// The registry itself is no cache, and without a token it answers nobody.
	if err := up.pullOnce(t.Context(), up.base, "manifests/"+tag, true); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a token: %v", err)
	}
}

func TestWalk_More(t *testing.T) {
	t.Parallel()
	of := func(name string) function { return function{source.Function{Name: name}, "p", "p/f.go"} }
	got := more(
		[]calls{{of("ticks"): 9, of("called"): 5, of("never"): 0, of("sometimes"): 1}, {of("ticks"): 7, of("called"): 6, of("never"): 0, of("sometimes"): 0}},
		[]calls{{of("ticks"): 8, of("called"): 2, of("never"): 0, of("sometimes"): 0}, {of("ticks"): 5, of("called"): 3, of("never"): 0, of("sometimes"): 0}},
	)
	if want := (calls{of("called"): 2}); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWalk_Profile(t *testing.T) {
	t.Parallel()
	p, err := parseProfile(strings.NewReader("mode: atomic\nm/a.go:1.10,2.3 1 7\nm/a.go:2.3,3.1 0 2\n"))
	want := profile{{"m/a.go", source.Position{Line: 1, Column: 10}}: 7, {"m/a.go", source.Position{Line: 2, Column: 3}}: 2}
	if err != nil || !maps.Equal(p, want) {
		t.Errorf("got %v, %v", p, err)
	}
	if _, err := parseProfile(strings.NewReader("mode: atomic\nm/a.go:1.10 7\n")); err == nil {
		t.Error("what is no profile passed")
	}
	if _, err := readCounters(t.Context(), t.TempDir()); err == nil {
		t.Error("a run without counters passed")
	}
	if err := command(t.Context(), []string{"--rounds", "0"}, nil); err == nil {
		t.Error("no rounds passed")
	}
}
