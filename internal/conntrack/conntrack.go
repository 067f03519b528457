// Package conntrack stands in for github.com/mwitkow/go-conntrack, which the HTTP client of
// github.com/prometheus/common dials with. berth takes nothing of that module but how a
// web configuration file is read, so nobody dials here. The real one imports
// golang.org/x/net/trace, whose pages are made by html/template, and that keeps every
// method of every type in the program: 14 MB of 35.
package conntrack

import (
	"context"
	"net"
)

// DialerOpt is an option that changes nothing.
type DialerOpt struct{}

// DialWithDialContextFunc would say what dials.
func DialWithDialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error)) DialerOpt {
	return DialerOpt{}
}

// DialWithTracing would have connections traced.
func DialWithTracing() DialerOpt { return DialerOpt{} }

// DialWithName would name them in metrics.
func DialWithName(string) DialerOpt { return DialerOpt{} }

// NewDialContextFunc refuses: dialling past an option that is not heeded would be wrong.
func NewDialContextFunc(...DialerOpt) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		return nil, net.UnknownNetworkError("the HTTP client of prometheus/common is not part of berth")
	}
}
