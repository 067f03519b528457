package config

import (
	"encoding"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/suggest"
)

// choice is a text type with a fixed set of values.
type choice interface{ Values() []string }

// parser is how a value that is written as one word gets into v; nil when v is
// written as a list or as keys.
func parser(v reflect.Value) func(string) error {
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		return into(p, parseDuration)
	case *time.Time:
		return into(p, ParseNotAfter)
	case *netip.Prefix:
		return into(p, parsePrefix)
	case *bool:
		return into(p, parseBool)
	case *int:
		return into(p, parseInt)
	case *float64:
		return into(p, parseFloat)
	case encoding.TextUnmarshaler:
		return func(s string) error { return p.UnmarshalText([]byte(s)) }
	case choice:
		return func(s string) error { return choose(v, p.Values(), s) }
	case *string:
		return func(s string) error { *p = s; return nil }
	}
	return nil
}

func into[T any](p *T, parse func(string) (T, error)) func(string) error {
	return func(s string) (err error) {
		*p, err = parse(s)
		return err
	}
}

func choose(v reflect.Value, values []string, s string) error {
	if !slices.Contains(values, s) {
		hint := suggest.Question(s, values)
		if hint == "" {
			hint = ": write one of them"
		}
		return errors.New(quote(s) + " is not one of " + strings.Join(values, ", ") + hint)
	}
	v.SetString(s)
	return nil
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New(quote(s) + " is neither true nor false: write one of the two")
}

func parseInt(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, errors.New(quote(s) + " is no whole number: write digits only")
	}
	return n, nil
}

func parseFloat(s string) (float64, error) {
	n, ok := parseNumber(s)
	if !ok {
		return 0, errors.New(quote(s) + " is no number: write digits with at most one dot, as in 0.25")
	}
	return n, nil
}

const day = 24 * time.Hour

// parseDuration reads what time.ParseDuration does, and whole days.
func parseDuration(s string) (time.Duration, error) {
	const form = "write a number with a unit, as in 60s, 5m, 24h or 7d"
	if number, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return 0, errors.New(quote(s) + " is no duration: " + form)
		}
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New(quote(s) + " is no duration: " + form)
	}
	if d < 0 {
		return 0, errors.New(quote(s) + " is negative: " + form)
	}
	return d, nil
}

// ParseNotAfter reads an instant, or a day, which counts to its end in UTC.
func ParseNotAfter(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, 1).Add(-time.Nanosecond), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, errors.New(quote(s) + " is no date: write 2027-01-31, or an instant such as 2027-01-31T12:00:00Z")
	}
	return t.UTC(), nil
}

// parsePrefix reads a network, or one address as a network of its own.
func parsePrefix(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		return netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, errors.New(quote(s) + " is no network: write it as 10.0.0.0/8 or fd00::/8")
	}
	if p != p.Masked() {
		return netip.Prefix{}, errors.New(quote(s) + " begins inside its network: write " + p.Masked().String())
	}
	return p, nil
}
