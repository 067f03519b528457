package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"berth/internal/config"
	"berth/proxy"
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

// Where all places are taken, whoever waits for one gets it, and his answer, also while
// serving ends.
func TestServing_EndsWhileAllPlacesAreTaken(t *testing.T) {
	t.Parallel()
	all := proxy.NewConnections(1, 0, slog.New(slog.DiscardHandler))
	socket, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	busy, leave := make(chan struct{}, 2), make(chan struct{})
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: all.LetIn(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		busy <- struct{}{}
		<-leave
	}))}
	all.Attend(server)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &listener{connections: all}
	ended := make(chan error, 1)
	go func() { ended <- serveOn(ctx, server, all.Listener(socket), l.serve) }()
	ask := func() {
		c, err := net.Dial("tcp", socket.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Error(err)
		}
	}
	ask()
	<-busy
	ask()
	cancel()
	close(leave)
	select {
	case <-busy:
	case <-time.After(20 * time.Second):
		t.Error("who waits for a place still does")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
