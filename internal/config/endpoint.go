package config

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// normalEndpoint writes an endpoint in its one form, as origins compare it:
// lower case, no default port, no slash at the end. What is no endpoint stays
// as it is, for the check to complain about.
func normalEndpoint(raw string) string {
	u, why := parseEndpoint(raw)
	if why != "" {
		return raw
	}
	return u.Scheme + "://" + u.Host
}

// parseEndpoint reads scheme, host and port; why says what is wrong. It never
// repeats raw, which may hold a password.
func parseEndpoint(raw string) (u *url.URL, why string) {
	if u, why = parseURL(raw); why != "" {
		return nil, why
	}
	if u.Path != "" && u.Path != "/" {
		return nil, "a registry has no path of its own: write only https://HOST or https://HOST:PORT"
	}
	return u, ""
}

// parseURL reads an http or https URL without user name, query and fragment,
// and puts its host into its one form.
func parseURL(raw string) (u *url.URL, why string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, "this is no URL: write it as https://registry.example.com"
	case u.User != nil:
		return nil, "a user name or password in a URL is not read: remove it, and use a credential"
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Opaque != "":
		return nil, "this is no URL with https:// and a host: write it as https://registry.example.com"
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, "a query or fragment is not read: remove everything from ? or # on"
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if !validHost(host) || strings.HasSuffix(u.Host, ":") || port != "" && !validPort(port) {
		return nil, "the URL has no good host or port: write it as https://registry.example.com:5443"
	}
	u.Host = host
	if strings.Contains(host, ":") {
		u.Host = "[" + host + "]"
	}
	if port != "" && port != defaultPort(u.Scheme) {
		u.Host = net.JoinHostPort(host, port)
	}
	return u, ""
}

// placeOf is host:port of a URL from parseURL, the same for all spellings of it.
func placeOf(u *url.URL) string {
	host, port := u.Hostname(), u.Port()
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	if port == "" {
		port = defaultPort(u.Scheme)
	}
	return net.JoinHostPort(host, port)
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// loopbackHost says that host can only mean this node (RFC 6761 for names).
func loopbackHost(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// publicAddress is a first look, for what is written down as an address. The
// full list is applied to every address that is dialled.
func publicAddress(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !sharedSpace().Contains(ip)
}

// sharedSpace is what carriers use behind NAT (RFC 6598).
func sharedSpace() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)
}

func contains(prefixes []netip.Prefix, ip netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// covered says that p lies within one of prefixes.
func covered(prefixes []netip.Prefix, p netip.Prefix) bool {
	for _, outer := range prefixes {
		if outer.Bits() <= p.Bits() && outer.Contains(p.Addr()) {
			return true
		}
	}
	return false
}
