package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, or a share of a file system. At most one field is
// not zero.
type Size struct {
	Percent float64 // 0 to 100
	Bytes   int64
}

// Of is the size in bytes on a file system that has total of them.
func (s Size) Of(total int64) int64 {
	if s.Percent > 0 {
		return int64(float64(total) / 100 * s.Percent)
	}
	return s.Bytes
}

// IsZero says that the size is nothing at all.
func (s Size) IsZero() bool { return s == Size{} }

const sizeForm = "write a share such as 20%, or bytes such as 500MB or 10GiB"

// units are what may follow a number. "10G" is missing on purpose: some
// programs read it as 10 GB and others as 10 GiB.
var units = []struct {
	suffix string
	factor float64
}{
	{"KIB", 1 << 10},
	{"MIB", 1 << 20},
	{"GIB", 1 << 30},
	{"TIB", 1 << 40},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
}

// parseSize reads 20%, 500MB, 10GiB or a plain number of bytes, for the file and
// for flags.
func parseSize(s string) (Size, error) {
	text := strings.ToUpper(strings.TrimSpace(s))
	if number, ok := strings.CutSuffix(text, "%"); ok {
		n, ok := parseNumber(strings.TrimSpace(number))
		if !ok || n > 100 {
			return Size{}, errors.New(quote(s) + " is no share from 0% to 100%: " + sizeForm)
		}
		return Size{Percent: n}, nil
	}
	factor := 1.0
	for _, u := range units {
		if number, ok := strings.CutSuffix(text, u.suffix); ok {
			text, factor = strings.TrimSpace(number), u.factor
			break
		}
	}
	n, ok := parseNumber(text)
	if !ok {
		return Size{}, errors.New(quote(s) + " is no size: " + sizeForm)
	}
	if n*factor >= math.MaxInt64 {
		return Size{}, errors.New(quote(s) + " is more than any disk holds: " + sizeForm)
	}
	return Size{Bytes: int64(n * factor)}, nil
}

// parseNumber reads digits with at most one dot: no sign, no exponent.
func parseNumber(s string) (float64, bool) {
	if strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

// UnmarshalText reads what ParseSize reads.
func (s *Size) UnmarshalText(text []byte) (err error) {
	*s, err = parseSize(string(text))
	return err
}

// String is the form that ParseSize reads.
func (s Size) String() string {
	if s.Percent > 0 {
		return strconv.FormatFloat(s.Percent, 'f', -1, 64) + "%"
	}
	return strconv.FormatInt(s.Bytes, 10)
}

// MarshalText is String, for JSON.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
