package main

import (
	"net"
	"slices"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer knows no name, and remembers who was asked for.
type nameServer struct {
	conn *net.UDPConn
	wg   sync.WaitGroup

	mu    sync.Mutex
	names []string
}

func newNameServer(t testing.TB) *nameServer {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn}
	s.wg.Go(s.serve)
	t.Cleanup(func() {
		conn.Close()
		s.wg.Wait()
	})
	return s
}

func (s *nameServer) addr() string { return s.conn.LocalAddr().String() }

// asked are the names so far.
func (s *nameServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.names)
}

func (s *nameServer) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if reply, err := s.reply(buf[:n]); err == nil {
			_, _ = s.conn.WriteTo(reply, from) // UDP: who asked asks again
		}
	}
}

func (s *nameServer) reply(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	s.mu.Lock()
	for _, q := range m.Questions {
		s.names = append(s.names, q.Name.String())
	}
	s.mu.Unlock()
	m.Response, m.RCode = true, dnsmessage.RCodeNameError
	m.Additionals = nil // EDNS
	return m.Pack()
}
