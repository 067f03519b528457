package ocitest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// LoopbackOnly is a net.Dialer.Control that lets only loopback addresses and
// Unix sockets through. Dialers of tests have it.
func LoopbackOnly(network, address string, _ syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("tests stay on this machine: %s %s: %w", network, address, err)
	}
	if !a.Addr().IsLoopback() {
		return fmt.Errorf("tests stay on this machine: refused to dial %s", address)
	}
	return nil
}

// NoNetwork makes the default HTTP transport and the default resolver refuse
// everything but this machine, for the rest of the process.
func NoNetwork() {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		t = &http.Transport{}
	}
	t = t.Clone()
	t.Proxy = nil
	t.DialContext = (&net.Dialer{Control: LoopbackOnly}).DialContext
	http.DefaultTransport = t
	net.DefaultResolver = &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, fmt.Errorf("tests stay on this machine: refused to ask a name server")
		},
	}
}

// Main is a TestMain: no network but loopback, and at the end no goroutine
// that somebody forgot.
func Main(m *testing.M, options ...goleak.Option) {
	NoNetwork()
	goleak.VerifyTestMain(tidied{m}, options...)
}

// tidied closes what tests that used the default transport left idle.
type tidied struct{ m *testing.M }

func (t tidied) Run() int {
	code := t.m.Run()
	http.DefaultClient.CloseIdleConnections()
	return code
}
