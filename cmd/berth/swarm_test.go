package main

import (
	"bufio"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"berth/internal/ocitest"
)

// Two hundred engines want one layer that nobody has yet. Upstream sends a bit
// of it and then waits until each of them has got something: so nobody's first
// byte waits for the download, however slow this machine is. Most of them leave after some
// more; with BERTH_LONG all stay.
func TestSwarm(t *testing.T) {
	const (
		clients = 200
		begun   = 512 << 10 // 0.2 % of a large blob
		// What a run of bytes is asked for on several connections at once, is
		// held back on each.
		connections = 4
	)
	// Whoever leaves has had its first byte. What is left of those who stay is larger
	// than the memory that berth may take.
	size, stay, leaveAt := int64(128<<20), clients/5, int64(8<<20)
	if os.Getenv("BERTH_LONG") != "" {
		size, stay = 256<<20, clients
	}
	h := newHome(t)
	hub := ocitest.New(t, ocitest.Options{OneCopy: true})
	d := hub.AddNoise("library/big", 7, size)
	h.registry("docker.io", hub)
	h.listeners = h.listeners[openDoor:]
	gate := ocitest.NewGate()
	hub.Inject(ocitest.Match{Kind: ocitest.Blob}, 0, ocitest.Fault{HoldBody: gate, HoldAt: begun, Rate: 400 << 20})
	n := h.build()
	data, castagnoli := hub.Bytes("library/big", d), crc32.MakeTable(crc32.Castagnoli)
	all := fmt.Sprintf("%d %08x", size, crc32.Checksum(data, castagnoli))
	some := fmt.Sprintf("%d %08x", leaveAt, crc32.Checksum(data[:leaveAt], castagnoli))

	swarm := exec.CommandContext(t.Context(), program(t, swarmProgram), n.doors[0]+"/v2/library/big/blobs/"+d.String(),
		strconv.Itoa(clients), strconv.Itoa(stay), strconv.FormatInt(leaveAt, 10))
	swarm.Stderr = os.Stderr
	out, err := swarm.StdoutPipe()
	if err == nil {
		err = swarm.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	first, same, left := 0, 0, 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch line := lines.Text(); line {
		case "first":
			if first++; first == clients {
				if sent := hub.BlobBytes(d); sent > connections*begun {
					t.Errorf("when the last client had its first byte, upstream had sent %d of %d", sent, size)
				}
				gate.Open()
			}
		case all:
			same++
		case some:
			left++
		default:
			t.Errorf("a client: %s", line)
			gate.Open()
		}
	}
	if err := swarm.Wait(); err != nil {
		t.Error(err)
	}
	if first != clients || same != stay || left != clients-stay {
		t.Errorf("of %d clients %d got a first byte, %d left, %d got it all", clients, first, left, same)
	}
	if sent := hub.BlobBytes(d); sent != size {
		t.Errorf("upstream sent %d bytes for a blob of %d", sent, size)
	}
	if peak := n.peakMemory(); peak >= 96<<20 {
		t.Errorf("berth took %d MiB", peak>>20)
	} else {
		t.Logf("berth took %d MiB at most", peak>>20)
	}
	if kept := h.kept(d.Encoded()); len(kept) != 1 {
		t.Errorf("the cache has %v", kept)
	}
}
