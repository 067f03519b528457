package main

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer knows few names, all of them this node's, and remembers who was
// asked for.
type nameServer struct {
	conn  *net.UDPConn
	known []string
	wg    sync.WaitGroup

	mu    sync.Mutex
	names []string
}

func newNameServer(t testing.TB, known ...string) *nameServer {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn, known: known}
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
	m.Response, m.RCode = true, dnsmessage.RCodeNameError
	m.Additionals = nil // EDNS
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range m.Questions {
		s.names = append(s.names, q.Name.String())
		if !slices.Contains(s.known, strings.TrimSuffix(q.Name.String(), ".")) {
			continue
		}
		m.RCode = dnsmessage.RCodeSuccess
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			})
		}
	}
	return m.Pack()
}
