package classify

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a registry may ask for: Docker Hub's window of six
// hours is the longest known.
const maxRetryAfter = 24 * time.Hour

// RetryAfter reads a Retry-After header: whole or broken seconds, or a date,
// counted from the answer's own Date where it has one, since clocks differ.
// Else it looks for "retry-after: 880.092µs" in message, which is how GHCR says
// it. Zero: nothing usable. Never more than a day.
func RetryAfter(header http.Header, message string, now time.Time) time.Duration {
	if d, ok := retryAfterHeader(header, now); ok {
		return d
	}
	return retryAfterMessage(message)
}

func retryAfterHeader(header http.Header, now time.Time) (time.Duration, bool) {
	v := strings.TrimSpace(header.Get("Retry-After"))
	if v == "" {
		return 0, false
	}
	if s, err := strconv.ParseFloat(v, 64); err == nil {
		return bounded(s * float64(time.Second))
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	if sent, err := http.ParseTime(header.Get("Date")); err == nil {
		now = sent
	}
	return bounded(float64(at.Sub(now)))
}

func retryAfterMessage(message string) time.Duration {
	if len(message) > maxForeign {
		message = message[:maxForeign]
	}
	const key = "retry-after:"
	i := strings.Index(strings.ToLower(message), key)
	// lowering may change the length of odd letters; then the text is not GHCR's
	if i < 0 || i+len(key) > len(message) {
		return 0
	}
	fields := strings.FieldsFunc(message[i+len(key):], func(r rune) bool { return r == ' ' || r == ',' || r == ';' || r == '"' })
	if len(fields) == 0 {
		return 0
	}
	d, err := time.ParseDuration(fields[0])
	if err != nil {
		return 0
	}
	d, _ = bounded(float64(d))
	return d
}

// bounded makes a wait of d nanoseconds, between 0 and maxRetryAfter. NaN is
// no wait.
func bounded(d float64) (time.Duration, bool) {
	switch {
	case d >= float64(maxRetryAfter):
		return maxRetryAfter, true
	case d > 0:
		return time.Duration(d), true
	}
	return 0, d <= 0
}
