package golden

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// requestsPerCount make what the runtime does besides, and a scrape, small.
	requestsPerCount = 20_000
	// Figures of the golden file are held within this: one allocation more for each
	// request is found.
	nearObjects = 0.7
	nearBytes   = 0.08 // of the figure
)

// What one warm request allocates in the whole of the built program: net/http, berth's
// handler, the rights, the log line. Counted by the program's own runtime, over many
// requests on one connection.
func TestGolden_InsideAllocations(t *testing.T) {
	t.Parallel()
	v := newVillage(t, true)
	// A pool keeps its things by processor: a goroutine that is moved between two, as
	// happens on a busy machine, finds nothing and allocates anew. And where no garbage
	// is collected, no pool is emptied at a moment that differs from run to run.
	v.env = []string{"GOMAXPROCS=1", "GOGC=off"}
	n := v.node(t)
	at, login := n.doors[0]+"/v2/ghcr.io/acme/app/", "acme:"+doorOf("acme")
	n.pull(n.doors[0], "ghcr.io/acme/app", "1", "login", login)
	p := v.image.Platforms[0]
	var b strings.Builder
	for _, one := range []struct{ name, path string }{
		{"manifest by tag", "manifests/1"},
		{"blob of 300,000 bytes", "blobs/" + string(p.Layers[1])},
	} {
		ask := n.asker(t, at+one.path, login)
		ask(3000) // pools and tables grow
		n.allocated(t)
		from := n.allocated(t)
		idle := n.allocated(t).minus(from) // what a scrape costs
		from = n.allocated(t)
		ask(requestsPerCount)
		per := n.allocated(t).minus(from).minus(idle)
		fmt.Fprintf(&b, "%s: %.1f objects, %.0f bytes\n", one.name, per.objects/requestsPerCount, per.bytes/requestsPerCount)
	}
	text := near(t, "inside_allocations", b.String())
	show(t, "performance.md", "inside_allocations", text)
	hold(t, "inside_allocations", fmt.Sprintf("What one warm request allocates in the whole program, within %.1f objects and %.0f %% of the bytes.", nearObjects, 100*nearBytes), text)
}

// asker sends the same request again and again on a connection of its own.
func (n *node) asker(t *testing.T, url, login string) func(times int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	user, password, _ := strings.Cut(login, ":")
	req.SetBasicAuth(user, password)
	var text bytes.Buffer
	if err := req.Write(&text); err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", req.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	answers := bufio.NewReader(conn)
	return func(times int) {
		if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
			t.Fatal(err)
		}
		for range times {
			if _, err := conn.Write(text.Bytes()); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(answers, req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s, %v", url, resp.Status, err)
			}
		}
	}
}

// allocations are what a program has allocated since its start.
type allocations struct{ objects, bytes float64 }

func (a allocations) minus(b allocations) allocations {
	return allocations{a.objects - b.objects, a.bytes - b.bytes}
}

// allocated asks the program's metrics.
func (n *node) allocated(t *testing.T) allocations {
	t.Helper()
	text := string(n.must(http.MethodGet, n.admin+"/metrics").body)
	return allocations{objects: valueOf(text, "go_memstats_mallocs_total"), bytes: valueOf(text, "go_memstats_alloc_bytes_total")}
}

var figure = regexp.MustCompile(`\b([\d.]+) (objects|bytes)[,\n]`)

// near is text with each figure replaced by that of the golden file, if it is near it
// and everything else is the same. So what comes out differs from the file only where a
// figure has really moved, in either direction.
func near(t *testing.T, name, text string) string {
	t.Helper()
	kept, err := os.ReadFile(filepath.Join("testdata", name+".golden"))
	if err != nil || *update {
		return text // hold says what is wrong with the file
	}
	_, body, _ := bytes.Cut(kept, []byte("\n\n"))
	want := figure.FindAllStringSubmatch(string(body), -1)
	i := -1
	return figure.ReplaceAllStringFunc(text, func(now string) string {
		i++
		if i < len(want) && isNear(t, figure.FindStringSubmatch(now), want[i]) {
			return want[i][0]
		}
		return now
	})
}

// isNear compares a figure with that of the golden file.
func isNear(t *testing.T, now, want []string) bool {
	t.Helper()
	a, errA := strconv.ParseFloat(now[1], 64)
	b, errB := strconv.ParseFloat(want[1], 64)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	far := nearObjects
	if now[2] == "bytes" {
		far = nearBytes * b
	}
	return now[2] == want[2] && math.Abs(a-b) <= far
}
