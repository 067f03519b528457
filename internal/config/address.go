package config

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address is where to listen. The zero Address is nowhere.
type Address struct {
	// Host is "localhost" or an IP address. "::" is every address.
	Host string
	// Port 0 lets the system choose.
	Port uint16
	// Socket is the name of sockets that systemd hands over; Host and Port are
	// then empty.
	Socket string
}

// parseAddress reads HOST:PORT or systemd:NAME, for the file and for flags. A
// host name other than localhost is refused: what it resolves to can change
// after it was checked.
func parseAddress(s string) (Address, error) {
	if name, ok := strings.CutPrefix(s, "systemd:"); ok {
		if !plainName(name) {
			return Address{}, errors.New("the name of the systemd socket is missing or odd: write systemd:NAME, with the socket unit's FileDescriptorName")
		}
		return Address{Socket: name}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, errors.New(quote(s) + " is no address: write HOST:PORT, as in localhost:5000")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Address{}, errors.New(quote(port) + " is no port: write a number from 0 to 65535")
	}
	if host, err = listenHost(host); err != nil {
		return Address{}, err
	}
	return Address{Host: host, Port: uint16(n)}, nil
}

func listenHost(host string) (string, error) {
	if host == "" || host == "*" {
		return "::", nil
	}
	if host == "localhost" {
		return host, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", errors.New(quote(host) + " is neither localhost nor an IP address: write the address, names can change their meaning")
	}
	return ip.Unmap().String(), nil
}

// UnmarshalText reads what ParseAddress reads; empty text is the zero Address.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a = Address{}
	if len(text) > 0 {
		*a, err = parseAddress(string(text))
	}
	return err
}

// String is the form that ParseAddress reads; empty for the zero Address.
func (a Address) String() string {
	switch {
	case a.IsZero():
		return ""
	case a.Socket != "":
		return "systemd:" + a.Socket
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// MarshalText is String, for JSON.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// IsZero says that this is nowhere.
func (a Address) IsZero() bool { return a == Address{} }

// Loopback says that only this node can reach the address. It is false for
// systemd's sockets, whose address is not known here: see Listener.MayBind.
func (a Address) Loopback() bool {
	if a.Host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(a.Host)
	return err == nil && ip.IsLoopback()
}

// Binds are the addresses to listen on: two for localhost, since clients try
// either family first; none for systemd's sockets and for nowhere. Listen with
// "tcp4" on an IPv4 address: Go's "tcp" opens 0.0.0.0 for IPv6 too.
func (a Address) Binds() []netip.AddrPort {
	switch {
	case a.IsZero() || a.Socket != "":
		return nil
	case a.Host == "localhost":
		return []netip.AddrPort{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port),
			netip.AddrPortFrom(netip.IPv6Loopback(), a.Port),
		}
	}
	ip, err := netip.ParseAddr(a.Host)
	if err != nil {
		return nil
	}
	return []netip.AddrPort{netip.AddrPortFrom(ip, a.Port)}
}

// keys name what the address takes, to find two that take the same.
func (a Address) keys() []string {
	if a.Socket != "" {
		return []string{a.String()}
	}
	var keys []string
	for _, bind := range a.Binds() {
		keys = append(keys, bind.String())
	}
	return keys
}
