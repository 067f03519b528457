package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/internal/ocitest"
	"berth/oci"
)

// flood is what one organisation, or a program without a token, does to a node with all the
// connections that it gets.
type flood struct {
	*stage
	address string
	login   string // a line of a header; empty for a program without a token
	own     ocitest.Pushed
	large   oci.Digest
}

// floods are of different shapes. Each of them is sent, over and over, by many at once: write
// writes to a connection, n of which were opened before, and read says how much of the answers
// is read, -1 for all of them.
var floods = []struct {
	name  string
	write func(f *flood, n int64) string
	read  int64
}{
	{"small manifests", func(f *flood, _ int64) string { return f.ask("GET", "manifests/"+f.own.Digest.String()) }, -1},
	{"manifests that nobody reads", func(f *flood, _ int64) string {
		return strings.Repeat(f.ask("GET", "manifests/"+f.own.Digest.String()), 50)
	}, 1},
	{"digests that it invents", func(f *flood, n int64) string { return f.ask("HEAD", "manifests/"+invented(n)) }, -1},
	{"blobs that it invents", func(f *flood, n int64) string { return f.ask("GET", "blobs/"+invented(n)) }, -1},
	{"ranges", func(f *flood, n int64) string {
		return f.ask("GET", "blobs/"+f.large.String(), fmt.Sprintf("Range: bytes=%d-%d", n*1009%(1<<20), n*1009%(1<<20)+5000))
	}, -1},
	{"a thousand pieces", func(f *flood, _ int64) string {
		var pieces []string
		for i := range 1000 {
			pieces = append(pieces, fmt.Sprintf("%d-%d", i*1000, i*1000+10))
		}
		return f.ask("GET", "blobs/"+f.large.String(), "Range: bytes="+strings.Join(pieces, ","))
	}, -1},
	{"blobs that nobody reads", func(f *flood, _ int64) string { return f.ask("GET", "blobs/"+f.large.String()) }, 100},
	{"lists", func(f *flood, n int64) string { return f.ask("GET", fmt.Sprintf("tags/list?n=%d", 1+n)) }, -1},
	{"referrers", func(f *flood, n int64) string { return f.ask("GET", "referrers/"+invented(n)) }, -1},
	{"huge names", func(f *flood, n int64) string {
		return strings.Replace(f.ask("GET", "tags/list"), "own", strings.Repeat(fmt.Sprint("own", n), 3000), 1)
	}, -1},
	{"huge headers", func(f *flood, _ int64) string {
		return f.ask("GET", "tags/list", "X-Long: "+strings.Repeat("x", 100_000))
	}, -1},
	{"half headers", func(f *flood, _ int64) string { return strings.TrimSuffix(f.ask("GET", "tags/list"), "\r\n") }, 0},
	{"bodies without an end", func(f *flood, _ int64) string {
		return f.ask("POST", "blobs/uploads/", "Transfer-Encoding: chunked") + strings.Repeat("fff\r\n"+strings.Repeat("b", 0xfff)+"\r\n", 50)
	}, -1},
	{"many in a row", func(f *flood, n int64) string {
		return strings.Repeat(f.ask("HEAD", fmt.Sprintf("manifests/v%d", n)), 200)
	}, 0},
	{"HTTP/2", func(*flood, int64) string {
		return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", 500)
	}, -1},
}

// ask is a request for something of its own repository.
func (f *flood) ask(method, what string, headers ...string) string {
	lines := append([]string{method + " /v2/ghcr.io/globex/own/" + what + " HTTP/1.1", "Host: localhost"}, headers...)
	if f.login != "" {
		lines = append(lines, f.login)
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

func invented(n int64) string { return oci.DigestOf(fmt.Append(nil, n)).String() }

// send opens a connection, says what it has to say, and reads as much as it reads.
func (f *flood) send(ctx context.Context, what string, read int64) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", f.address)
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer c.Close()
	if _, err := io.WriteString(c, what); err != nil {
		return
	}
	switch {
	case read < 0:
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		method, _, _ := strings.Cut(what, " ")
		if resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method}); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body) // as much as comes in time
			resp.Body.Close()
		}
	default:
		_, _ = io.CopyN(io.Discard, c, read)
		<-ctx.Done()
	}
}

// A flood of whatever shape, from an organisation or from a program without a token, fails no
// pull of another organisation: what has been pulled, and what has not. What the node has open,
// and in memory, is bounded, and what a registry gets is what the organisation may send.
func TestFlood_OthersPull(t *testing.T) {
	many := 40
	if os.Getenv("BERTH_LONG") != "" {
		many = 300
	}
	for i, shape := range floods {
		for j, login := range []bool{true, false} {
			if os.Getenv("BERTH_LONG") == "" && (i+j)%2 != 0 {
				continue // each shape once
			}
			t.Run(shape.name+map[bool]string{true: "/an organisation", false: "/a stranger"}[login], func(t *testing.T) {
				s := newStage(t)
				s.registry.SetRights("globex-bot", "globex/**")
				f := &flood{stage: s, own: s.registry.AddImage("globex/own", "1", ocitest.Image{Layers: []int64{100}})}
				f.large = s.registry.AddNoise("globex/own", 3, 8<<20)
				s.dropIn("globex", "limits: {rate: 20, burst: 100}")
				n := s.run()
				f.address = strings.TrimPrefix(n.doors[tokenDoor], "http://")
				if login {
					f.login = "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("globex:"+s.token("globex")))
				}
				begun := time.Now()
				f.beside(t, n, many, shape.write, shape.read)
				ofGlobex := ocitest.Match{Where: func(r ocitest.Request) bool { return strings.HasPrefix(r.Repo, "globex/") }}
				if got, most := s.registry.Count(ofGlobex), 2*(100+int(20*(time.Since(begun).Seconds()+1))); got > most || !login && got > 0 {
					t.Errorf("%d of its requests reached the registry, want %d at most", got, most)
				}
				if strings.Contains(n.log.String(), "too many open files") || strings.Contains(n.log.String(), "panic") {
					t.Errorf("berth said:\n%s", n.troubles())
				}
			})
		}
	}
}

// beside has acme pull while so many send what write says.
func (f *flood) beside(t *testing.T, n *running, many int, write func(*flood, int64) string, read int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var senders sync.WaitGroup
	var sent atomic.Int64
	for range many {
		senders.Go(func() {
			for ctx.Err() == nil {
				f.send(ctx, write(f, sent.Add(1)), read)
			}
		})
	}
	await(t, "the flood", func() bool { return sent.Load() >= int64(many) })
	open := 0
	for i := range 4 {
		img := f.registry.AddImage("acme/app", fmt.Sprint("cold", i), ocitest.Image{Layers: []int64{10_000, 300_000}, Seed: uint64(50 + i)})
		for _, img := range []ocitest.Pushed{img, f.image} {
			c := f.caller(n, "acme")
			c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}, Timeout: patience}
			c.mustPull(app, img, "")
			c.http.CloseIdleConnections()
		}
		if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.process.Pid)); err == nil {
			open = max(open, len(fds))
		}
	}
	f.client(n.admin).await("/readyz", http.StatusOK) // on a busy machine it may take a moment to answer itself
	t.Logf("%d were sent; %d descriptors, %d MiB at most", sent.Load(), open, n.peakMemory()>>20)
	cancel()
	senders.Wait()
	if peak := n.peakMemory() >> 20; open > 1000 || peak > 320 {
		t.Errorf("%d descriptors and %d MiB", open, peak)
	}
}
