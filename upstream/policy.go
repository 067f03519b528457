package upstream

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// policy decides which addresses may be dialled. An origin, a redirect or a
// token realm names hosts, and whoever controls a name controls the address
// behind it at the moment of the dial: so it is the address that is checked.
type policy struct {
	allow []netip.Prefix
	// local are the addresses of this node, which are refused: a public one is reached
	// past the firewall, as loopback is. Nil: they are like any other.
	local func() []netip.Addr
}

// refusal says why an address was not dialled.
type refusal struct {
	addr netip.Addr
	why  string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s is %s", r.addr, r.why) }

// special lists what is never a public registry (IANA special-purpose
// registries, RFC 6890 and successors). The first match names the reason.
var special = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a carrier-grade NAT address"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a reserved address"},
	{netip.MustParsePrefix("192.0.2.0/24"), "a documentation address"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay address"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmark address"},
	{netip.MustParsePrefix("198.51.100.0/24"), "a documentation address"},
	{netip.MustParsePrefix("203.0.113.0/24"), "a documentation address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("::/96"), "an unspecified address"}, // and the IPv4-compatible ones, RFC 4291 2.5.5.1
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a local NAT64 address"},
	{netip.MustParsePrefix("100::/64"), "a discard address"},
	{netip.MustParsePrefix("2001::/23"), "a protocol-assignment address"}, // Teredo too: its server is anybody's
	{netip.MustParsePrefix("2001:db8::/32"), "a documentation address"},
	{netip.MustParsePrefix("3fff::/20"), "a documentation address"},
	{netip.MustParsePrefix("5f00::/16"), "a segment-routing address"},
	{netip.MustParsePrefix("fc00::/7"), "a private address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), "a site-local address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
}

// metadata are the addresses at which clouds hand the machine's own rights to
// whoever asks. Allowing the network around one does not allow it.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // nearly everyone
	netip.MustParseAddr("169.254.170.2"),   // AWS ECS task roles
	netip.MustParseAddr("169.254.170.23"),  // AWS EKS pod identity
	netip.MustParseAddr("fd00:ec2::23"),    // AWS EKS pod identity
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure, a public address
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
}

// embeds are the IPv6 networks whose addresses have an IPv4 address inside,
// with the byte at which that begins.
var embeds = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64, RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4, RFC 3056
}

// check returns a *refusal for an address that may not be dialled. An IPv4
// address inside an IPv6 one is judged as the IPv4 address that it reaches: on
// a network with NAT64 every public registry looks like that.
func (p *policy) check(addr netip.Addr) error {
	a := embedded(addr.WithZone(""))
	if slices.Contains(metadata, a) {
		return p.unlessAlone(a)
	}
	for _, allowed := range p.allow {
		if allowed.Contains(a) || allowed.Contains(addr.WithZone("")) {
			return nil
		}
	}
	for _, s := range special {
		if s.prefix.Contains(a) {
			return &refusal{addr: a, why: s.why}
		}
	}
	if p.local != nil && slices.Contains(p.local(), a) {
		return &refusal{addr: a, why: "an address of this node"}
	}
	return nil
}

// ownAddresses are those of the node's interfaces at this moment.
func ownAddresses() (all []netip.Addr) {
	interfaces, _ := net.InterfaceAddrs() // without an answer the rest is checked
	for _, i := range interfaces {
		if p, err := netip.ParsePrefix(i.String()); err == nil {
			all = append(all, p.Addr().Unmap().WithZone(""))
		}
	}
	return all
}

// unlessAlone lets a metadata address through only where it is listed by itself.
func (p *policy) unlessAlone(a netip.Addr) error {
	for _, allowed := range p.allow {
		if allowed.IsSingleIP() && allowed.Addr() == a {
			return nil
		}
	}
	return &refusal{addr: a, why: "a metadata service"}
}

// embedded is the IPv4 address that an IPv6 address stands for, or the address itself.
func embedded(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.Is4() {
		return a
	}
	b := a.As16()
	for _, e := range embeds {
		if e.prefix.Contains(a) {
			return netip.AddrFrom4([4]byte(b[e.at : e.at+4]))
		}
	}
	return a
}
