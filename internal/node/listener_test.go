package node

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"berth/internal/config"
)

// Settings follow the address of a listener, not its place in the file.
func TestSettingsFollowAddresses(t *testing.T) {
	t.Parallel()
	address := func(s string) (a config.Address) {
		if err := a.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		return a
	}
	start := &config.Config{Listeners: []config.Listener{
		{Address: address("localhost:5000"), Callers: "token"},
		{Address: address("localhost:5005"), Callers: "open", Organisation: "acme"},
		{Address: address("127.0.0.1:0"), Registry: "a"},
		{Address: address("127.0.0.1:0"), Registry: "b"},
	}}
	listeners, err := newListeners(start, make([][]net.Listener, len(start.Listeners)), nil)
	if err != nil {
		t.Fatal(err)
	}
	next := &config.Config{Listeners: []config.Listener{
		{Address: address("localhost:9999"), Callers: "open", Organisation: "evil"},
		{Address: address("127.0.0.1:0"), Registry: "c"},
		{Address: address("localhost:5000"), Callers: "token", Registry: "d"},
		{Address: address("127.0.0.1:0"), Registry: "e"},
	}}
	var got []string
	for _, l := range settings(listeners, next) {
		got = append(got, fmt.Sprint(l.Address, " ", l.Callers, " ", l.Organisation, " ", l.Registry))
	}
	want := []string{"localhost:5000 token  d", "localhost:5005 open acme ", "127.0.0.1:0   c", "127.0.0.1:0   e"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A socket of systemd's that others can reach is held to that at each reload.
func TestSystemdSocketsAreHeldToTheirAddress(t *testing.T) {
	t.Parallel()
	var named config.Address
	if err := named.UnmarshalText([]byte("systemd:pulls")); err != nil {
		t.Fatal(err)
	}
	f := listener{address: named, sockets: []net.Addr{&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5000}}}
	for _, test := range []struct {
		l    config.Listener
		good bool
	}{
		{config.Listener{Callers: config.CallersOpen}, false},
		{config.Listener{Callers: config.CallersToken}, false},
		{config.Listener{Callers: config.CallersToken, TLS: &config.TLS{}}, true},
		{config.Listener{Callers: config.CallersOpen, AllowRemote: true}, true},
	} {
		if err := f.mayServe(&test.l); (err == nil) != test.good {
			t.Errorf("%+v: %v", test.l, err)
		}
	}
}
