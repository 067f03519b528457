package isolation_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
	"berth/upstream"
)

// trap listens where nobody may go, and counts who comes.
type trap struct {
	port  int
	calls atomic.Int32
}

// newTrap listens at one port of several addresses of this machine.
func newTrap(t *testing.T) *trap {
	t.Helper()
	p := &trap{}
	var all sync.WaitGroup
	t.Cleanup(all.Wait) // after all of them are closed
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.1.2.3", "::1"} {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(host, strconv.Itoa(p.port)))
		if err != nil && host == "::1" {
			continue // a machine without IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		if at, ok := l.Addr().(*net.TCPAddr); ok {
			p.port = at.Port
		}
		all.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				p.calls.Add(1)
				_ = c.Close()
			}
		})
		t.Cleanup(func() { _ = l.Close() })
	}
	return p
}

// internal are hosts in whatever spelling somebody's parser takes for an
// address of this machine, its network or its cloud.
func internal() []string {
	hosts := []string{
		"localhost", "LOCALHOST", "localhost.", "foo.localhost", "localhost.localdomain", "ip6-localhost", "loopback",
		"metadata.google.internal", "metadata", "instance-data", "host.docker.internal", "kubernetes.default.svc",
		"127.1", "127.0.1", "0", "0.0.0.0", "0x7f.1", "0x7f000001", "0x7F.0x0.0x0.0x1", "017700000001", "0177.0.0.1", "2130706433",
		"127.0.0.1.", "127.0.0.1.nip.io", "127.00.0.1", "127.0.0.01", "1.0.0.127.in-addr.arpa", "①②⑦.⓪.⓪.①", "127。0。0。1",
	}
	for _, a := range []string{"127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "169.254.170.2", "224.0.0.1", "255.255.255.255"} {
		ip := netip.MustParseAddr(a).As4()
		hosts = append(hosts, a,
			fmt.Sprintf("[::ffff:%s]", a), fmt.Sprintf("[::%s]", a),
			fmt.Sprintf("[64:ff9b::%02x%02x:%02x%02x]", ip[0], ip[1], ip[2], ip[3]))
	}
	return append(hosts, "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[fe80::1]", "[fe80::1%25lo]", "[fd00:ec2::254]", "[fc00::1]", "[ff02::1]")
}

// insideResolver says of every name that it is 127.0.0.2, as whoever owns a name may.
func insideResolver(t *testing.T, asked *atomic.Int32) *net.Resolver {
	t.Helper()
	conn, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if a := insideAnswer(buf[:n]); a != nil {
				_, _ = conn.WriteTo(a, from) // who asks again gets another
			}
		}
	})
	t.Cleanup(func() { _ = conn.Close(); served.Wait() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		asked.Add(1)
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// insideAnswer is the answer to a query (RFC 1035, section 4.1).
func insideAnswer(q []byte) []byte {
	end := 12
	for end < len(q) && q[end] != 0 {
		end += int(q[end]) + 1
	}
	if end += 5; end > len(q) {
		return nil
	}
	a := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
	if q[end-3] == 1 { // type A
		a[7] = 1
		a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 2)
	}
	return a
}

// Nothing that a client, an image, a registry or an organisation says leads to
// a place inside.
func TestNobodyLeadsInside(t *testing.T) {
	t.Parallel()
	trap := newTrap(t)
	var asked atomic.Int32
	w := newWorld(t)
	w.resolver = insideResolver(t, &asked)
	w.organisation("acme")
	w.organisation("bolt")
	var host atomic.Value // that the registries name
	there := func() string { s, _ := host.Load().(string); return s }
	target := func(path string) string { return fmt.Sprintf("http://%s%s", there(), path) }
	strict := func(p *place) { p.strict = true }
	leads := w.registry("leads.example", "", ocitest.Options{Fault: func(r ocitest.Request) ocitest.Fault {
		if r.Kind == ocitest.Blob || r.Kind == ocitest.Manifest {
			return ocitest.Status(http.StatusTemporaryRedirect, "Location", target("/secret"))
		}
		return ocitest.Fault{}
	}}, strict)
	w.registry("realm.example", "", ocitest.Options{Fault: func(r ocitest.Request) ocitest.Fault {
		return ocitest.Status(http.StatusUnauthorized, "Www-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="s"`, target("/token")))
	}}, strict)
	w.account("acme", "main", w.places[1])
	w.start()
	c := w.as("acme")
	d := oci.DigestOf([]byte("x")).String()
	n := 0
	for _, h := range internal() {
		at := fmt.Sprintf("%s:%d", h, trap.port)
		host.Store(at)
		before := asked.Load()
		answers := []answer{
			c.get("/v2/team/app/blobs/" + d + "?ns=" + url.QueryEscape(at)),
			c.get("/" + url.PathEscape(at) + "/v2/team/app/blobs/" + d),
			c.get("/v2/" + strings.NewReplacer(":", "_", "[", "", "]", "", "%", "").Replace(at) + "/team/app/blobs/" + d),
		}
		if asked.Load() != before {
			t.Errorf("%s was looked up", h)
		}
		answers = append(answers,
			c.get("/v2/leads.example/team/app/blobs/"+d),
			c.get("/v2/realm.example/team/app/manifests/v1"),
			w.brought(at))
		n += len(answers)
		for _, a := range answers {
			if a.err != nil || a.status < 400 {
				t.Errorf("%s: %s", h, a)
			}
			if calls := trap.calls.Swap(0); calls != 0 {
				t.Errorf("%s: %d connections", a, calls)
			}
		}
	}
	if n < 300 {
		t.Errorf("only %d spellings were tried", n)
	}
	t.Logf("%d spellings", n)

	// The trap works: where an operator allows it, it is reached.
	host.Store(fmt.Sprintf("127.0.0.2:%d", trap.port))
	leads.strict = false
	w.restart()
	c.get("/v2/leads.example/team/app/blobs/" + d)
	if trap.calls.Load() == 0 {
		t.Error("nothing reaches the trap at all")
	}
}

// brought asks a registry of bolt's own that is at host. One that cannot even be
// made counts as refused.
func (w *world) brought(host string) answer {
	a := answer{what: "own endpoint " + host, status: http.StatusBadRequest}
	for _, scheme := range []string{"https", "http"} {
		o := w.options(&place{name: "own.example", owner: "bolt", url: scheme + "://" + host, strict: true})
		r, err := upstream.New(o)
		if err != nil {
			continue
		}
		_, err = r.As(upstream.Identity{Organisation: "bolt"}).Resolve(w.t.Context(), "team/app", "v1")
		r.Close()
		if err == nil {
			a.status = http.StatusOK
		}
	}
	return a
}
