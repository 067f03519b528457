package upstream

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/oci"
)

func TestPolicy(t *testing.T) {
	for _, test := range []struct {
		addr  string
		allow string // networks
		ok    bool
	}{
		{addr: "93.184.216.34", ok: true},
		{addr: "2606:2800:21f:cb07:6820:80da:af6b:8b2c", ok: true},
		{addr: "127.0.0.1"}, {addr: "127.255.255.254"}, {addr: "::1"},
		{addr: "0.0.0.0"}, {addr: "0.1.2.3"}, {addr: "::"},
		{addr: "10.0.0.1"}, {addr: "172.16.0.1"}, {addr: "172.31.255.255"}, {addr: "192.168.1.1"},
		{addr: "172.15.255.255", ok: true}, {addr: "172.32.0.0", ok: true}, {addr: "11.0.0.0", ok: true},
		{addr: "fc00::1"}, {addr: "fdff::1"}, {addr: "fec0::1"},
		{addr: "100.64.0.1"}, {addr: "100.127.255.255"}, {addr: "100.63.255.255", ok: true}, {addr: "100.128.0.0", ok: true},
		{addr: "169.254.0.1"}, {addr: "fe80::1"}, {addr: "fe80::1%eth0"}, {addr: "febf::1"},
		{addr: "224.0.0.1"}, {addr: "239.255.255.255"}, {addr: "ff02::1"}, {addr: "255.255.255.255"}, {addr: "240.0.0.1"},
		{addr: "192.0.0.8"}, {addr: "192.0.2.1"}, {addr: "198.18.0.1"}, {addr: "198.51.100.1"}, {addr: "203.0.113.1"}, {addr: "192.88.99.1"},
		{addr: "2001:db8::1"}, {addr: "3fff::1"}, {addr: "100::1"}, {addr: "5f00::1"}, {addr: "2001:0:4136:e378:8000:63bf:3fff:fdd2"},
		// metadata services, wherever they are
		{addr: "169.254.169.254"}, {addr: "fd00:ec2::254"}, {addr: "100.100.100.200"}, {addr: "168.63.129.16"}, {addr: "192.0.0.192"},
		// IPv4 inside IPv6
		{addr: "::ffff:93.184.216.34", ok: true}, {addr: "::ffff:127.0.0.1"}, {addr: "::ffff:10.0.0.1"}, {addr: "::ffff:169.254.169.254"},
		{addr: "::7f00:1"}, {addr: "::10.0.0.1"},
		{addr: "64:ff9b::5db8:d822", ok: true}, {addr: "64:ff9b::7f00:1"}, {addr: "64:ff9b::a00:1"}, {addr: "64:ff9b::a9fe:a9fe"}, {addr: "64:ff9b::6440:1"},
		{addr: "64:ff9b:1::5db8:d822"},
		{addr: "2002:5db8:d822::1", ok: true}, {addr: "2002:7f00:1::1"}, {addr: "2002:a00:1::1"}, {addr: "2002:a9fe:a9fe::1"},
		// what the operator allows
		{addr: "10.1.2.3", allow: "10.0.0.0/8", ok: true}, {addr: "11.1.2.3", allow: "10.0.0.0/8", ok: true}, {addr: "192.168.0.1", allow: "10.0.0.0/8"},
		{addr: "::ffff:10.1.2.3", allow: "10.0.0.0/8", ok: true}, {addr: "64:ff9b::a01:203", allow: "10.0.0.0/8", ok: true},
		{addr: "64:ff9b:1::a01:203", allow: "64:ff9b:1::/48", ok: true},
		{addr: "127.0.0.1", allow: "127.0.0.0/8", ok: true}, {addr: "::1", allow: "127.0.0.0/8"},
		{addr: "fe80::1%eth0", allow: "fe80::/10", ok: true},
		{addr: "169.254.169.254", allow: "169.254.0.0/16"}, {addr: "169.254.169.254", allow: "0.0.0.0/0"},
		{addr: "169.254.169.254", allow: "169.254.169.254/32", ok: true}, {addr: "100.100.100.200", allow: "100.64.0.0/10"},
		{addr: "169.254.1.1", allow: "169.254.0.0/16", ok: true}, {addr: "fd00:ec2::254", allow: "fd00::/8"},
		{addr: "::ffff:169.254.169.254", allow: "::ffff:0:0/96"}, {addr: "64:ff9b::a9fe:a9fe", allow: "64:ff9b::/96"},
	} {
		p := policy{}
		if test.allow != "" {
			p.allow = []netip.Prefix{netip.MustParsePrefix(test.allow)}
		}
		err := p.check(netip.MustParseAddr(test.addr))
		if _, refused := errors.AsType[*refusal](err); (err == nil) != test.ok || err != nil && !refused {
			t.Errorf("%s, allowed %q: %v, want ok %v", test.addr, test.allow, err, test.ok)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add(netip.MustParseAddr("64:ff9b::7f00:1").AsSlice())
	f.Fuzz(func(t *testing.T, raw []byte) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		var p policy
		err := p.check(addr)
		if a := addr.Unmap(); err == nil && (a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified()) {
			t.Errorf("%s is allowed", addr)
		}
		if mapped := netip.AddrFrom16(addr.As16()); (p.check(mapped) == nil) != (err == nil) {
			t.Errorf("%s and %s are judged differently", addr, mapped)
		}
	})
}

// dial asks a registry whose name has these addresses, one list for each look-up.
func (s *stage) dial(t *testing.T, o Options, lists ...[]netip.Addr) error {
	t.Helper()
	s.dns.set("registry.test", lists...)
	o.Origin.Scheme, o.Before, o.Resolver, o.CAs = "https", withoutAuth, s.dns.resolver(), s.ca.pool
	r := newRegistry(t, o)
	_, err := r.As(Identity{Organisation: "acme"}).Resolve(t.Context(), "acme/app", "v1")
	return err
}

func addrs(all ...string) []netip.Addr {
	out := make([]netip.Addr, 0, len(all))
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func manifestHandler(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", index)
	_, _ = w.Write([]byte(`{"manifests":[]}`))
}

func TestDialPolicy(t *testing.T) {
	s := newStage(t)
	port := s.serve(t, true, manifestHandler, "registry.test")
	origin := oci.Origin{Host: "registry.test:" + port}
	none := []netip.Prefix{} // not nil, which would be loopback

	err := s.dial(t, Options{Origin: origin, AllowPrivate: none}, addrs("127.0.0.1"))
	e := classed(t, err, oci.Unreachable)
	for _, want := range []string{"organisation acme", "registry.test", "acme/app", "127.0.0.1/32", "allow_private"} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("message %q lacks %q", e.Message, want)
		}
	}
	if n := s.dns.lookups(); n != 1 {
		t.Errorf("a refused address was looked up %d times", n)
	}

	// An organisation that brought the name does not learn what the node's DNS says of it.
	private := origin
	private.Owner = "acme"
	e = classed(t, s.dial(t, Options{Origin: private, AllowPrivate: none}, addrs("127.0.0.1")), oci.Unreachable)
	if strings.Contains(e.Message, "127.0.0.1") || !strings.Contains(e.Message, "allow_private") {
		t.Errorf("message %q", e.Message)
	}

	for name, o := range map[string]Options{
		"named":   {Origin: origin, AllowPrivate: none, Named: urls(t, "https://Registry.test:"+port)},
		"allowed": {Origin: origin, AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}},
	} {
		if err := s.dial(t, o, addrs("127.0.0.1")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, named := range map[string]string{"another port": "https://registry.test:1", "another name": "https://x.test:" + port} {
		o := Options{Origin: origin, AllowPrivate: none, Named: urls(t, named)}
		if s.dial(t, o, addrs("127.0.0.1")) == nil {
			t.Errorf("%s was named, and this was dialled", name)
		}
	}
	if got := len(s.take()); got != 4 { // HEAD and GET, twice
		t.Errorf("%d requests arrived", got)
	}
}

// Whoever brings a registry chooses what its redirects name. What becomes of them is told
// alike, so that nobody reads this node's network with it; the cause is for the log. Where
// the platform chose the registry, the message says what to mend.
func TestDialPolicy_RedirectsOfAnOwnRegistry(t *testing.T) {
	s := newStage(t)
	to := ""
	port := s.serve(t, true, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}, "registry.test")
	s.dns.set("registry.test", addrs("127.0.0.1"))
	s.dns.set("inside.test", addrs("10.1.2.3"))
	s.dns.set("metadata.test", addrs("169.254.169.254"))
	s.dns.set("closed.test", addrs("127.0.0.1"))
	targets := []string{"absent.test", "inside.test:4", "metadata.test", "closed.test:1", "10.1.2.3", "[::1]:4"}
	for owner, alike := range map[string]bool{"acme": true, "": false} {
		told := map[string]bool{}
		for _, host := range targets {
			to = "https://" + host + "/x"
			r := newRegistry(t, Options{
				Origin: oci.Origin{Owner: owner, Scheme: "https", Host: "registry.test:" + port}, CAs: s.ca.pool, Resolver: s.dns.resolver(), Before: withoutAuth,
				AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			})
			r.pause = time.Millisecond
			_, err := r.As(as("acme", "alice", "secret")).Open(t.Context(), anObject, oci.Range{})
			e := classed(t, err, oci.Unreachable)
			told[fmt.Sprint(strings.ReplaceAll(e.Message, host, "HOST"), e.Detail, e.HTTPStatus(), e.RetryAfter)] = true
			if e.Err == nil {
				t.Errorf("%s: the cause is lost: %v", host, err)
			}
		}
		if (len(told) == 1) != alike {
			t.Errorf("a registry of %q is told %d things: %v", owner, len(told), slices.Collect(maps.Keys(told)))
		}
	}
}

// A name that was fine a moment ago and now leads inside: every connection is
// judged anew, by the address that is dialled.
func TestRebinding(t *testing.T) {
	s := newStage(t)
	port := s.serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // so that the next request looks up again
		manifestHandler(w, r)
	}, "registry.test")
	for _, evil := range []string{"127.0.0.2", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.2", "64:ff9b::a9fe:a9fe"} {
		// 127.0.0.1 stands in for a public address.
		allow := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		o := Options{Origin: oci.Origin{Host: "registry.test:" + port}, AllowPrivate: allow}
		err := s.dial(t, o, addrs("127.0.0.1"), addrs(evil))
		if e := classed(t, err, oci.Unreachable); !strings.Contains(e.Message, "allow_private") {
			t.Errorf("%s: %v", evil, err)
		}
		if got := len(s.take()); got != 1 {
			t.Errorf("%s: %d requests arrived", evil, got)
		}
		if err := s.dial(t, o, addrs(evil, "127.0.0.1")); err != nil { // a good address beside it is used
			t.Errorf("%s and a good one: %v", evil, err)
		}
		s.take()
	}
}

// What the operator named may lie anywhere; where it redirects to may not.
func TestNamedDoesNotCoverRedirects(t *testing.T) {
	s := newStage(t)
	target := s.serve(t, true, manifestHandler, "inside.test", "127.0.0.1")
	for _, to := range []string{"https://inside.test:" + target + "/x", "https://127.0.0.1:" + target + "/x", "https://[::ffff:127.0.0.1]:" + target + "/x"} {
		port := s.serve(t, true, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }, "registry.test")
		s.take()
		o := Options{Origin: oci.Origin{Host: "registry.test:" + port}, AllowPrivate: []netip.Prefix{}, Named: urls(t, "https://registry.test:"+port)}
		err := s.dial(t, o, addrs("127.0.0.1"))
		if e := classed(t, err, oci.Unreachable); !strings.Contains(e.Message, "sent us to") {
			t.Errorf("%s: message %q", to, e.Message)
		}
		for _, q := range s.take() {
			if strings.HasSuffix(q.url, "/x") {
				t.Errorf("%s was reached", q.url)
			}
		}
	}
}

// Tokens are fetched under the same policy.
func TestPolicyForTokens(t *testing.T) {
	s := newStage(t)
	tokens := s.serve(t, true, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"token":"x"}`)) }, "sso.test")
	port := s.serve(t, true, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://sso.test:`+tokens+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}, "registry.test")
	origin := oci.Origin{Scheme: "https", Host: "registry.test:" + port}
	r := newRegistry(t, Options{
		Origin: origin, AllowPrivate: []netip.Prefix{}, Named: urls(t, origin.URL()), Resolver: s.dns.resolver(), CAs: s.ca.pool,
		TokenEndpoints: []string{"https://sso.test:" + tokens + "/token"},
	})
	_, err := r.As(as("acme", "alice", "secret")).Resolve(t.Context(), "acme/app", "v1")
	if e := classed(t, err, oci.Unreachable); !strings.Contains(e.Message, "allow_private") {
		t.Errorf("message %q", e.Message)
	}
	for _, q := range s.take() {
		if strings.HasSuffix(q.url, "/token") {
			t.Errorf("%s was reached", q.url)
		}
	}
}

// Through a proxy names are the proxy's business, but an address is an address.
func TestPolicyThroughProxy(t *testing.T) {
	s := newStage(t)
	var mu sync.Mutex
	var asked []string
	proxy := s.serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.String())
		mu.Unlock()
		manifestHandler(w, r)
	})
	for host, ok := range map[string]bool{"registry.test": true, "10.0.0.1": false, "169.254.169.254": false, "[::1]": false, "127.0.0.1": false} {
		r := newRegistry(t, Options{
			Origin: oci.Origin{Scheme: "http", Host: host}, AllowPrivate: []netip.Prefix{},
			Proxy: mustURL(t, "http://127.0.0.1:"+proxy), Before: withoutAuth,
		})
		_, err := r.As(Identity{}).Resolve(t.Context(), "acme/app", "v1")
		mu.Lock()
		if (err == nil) != ok || (len(asked) > 0) != ok {
			t.Errorf("%s: %v; the proxy was asked for %v", host, err, asked)
		}
		asked = nil
		mu.Unlock()
		if !ok {
			wantClass(t, err, oci.Unreachable)
		}
	}
}

func TestNothingFromTheEnvironment(t *testing.T) {
	s := newStage(t)
	proxy := s.serve(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, v := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"} {
		t.Setenv(v, "http://127.0.0.1:"+proxy)
	}
	r := newRegistry(t, Options{Origin: oci.Origin{Scheme: "https", Host: "registry.test"}, Before: withoutAuth})
	if p := r.conns.now(); p.meta.Proxy != nil || p.blob.Proxy != nil {
		t.Error("a transport has a proxy")
	}
}

// An organisation's own registry leads to no address of this node, a public one either,
// unless that is listed. Those of the platform may be anywhere.
func TestPolicy_AddressesOfThisNode(t *testing.T) {
	public, other := netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("93.184.216.35")
	own := policy{local: func() []netip.Addr { return []netip.Addr{public} }}
	for _, a := range []netip.Addr{public, netip.MustParseAddr("::ffff:93.184.216.34"), netip.MustParseAddr("64:ff9b::5db8:d822")} {
		if err := own.check(a); err == nil || !strings.Contains(err.Error(), "an address of this node") {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := own.check(other); err != nil {
		t.Errorf("another one: %v", err)
	}
	if own.allow = []netip.Prefix{netip.PrefixFrom(public, 32)}; own.check(public) != nil {
		t.Error("one that is listed is refused")
	}
	if all := ownAddresses(); !slices.Contains(all, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("of this machine: %v", all)
	}
	for owner, want := range map[string]bool{"acme": true, "": false} {
		r, err := New(Options{Name: "x", Origin: oci.Origin{Owner: owner, Scheme: "https", Host: "registry.test"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.conns.options.dialer.policy.local != nil; got != want {
			t.Errorf("the registry of %q: looked at %v", owner, got)
		}
		r.Close()
	}
}
