package credential

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// longestLife is more than what a helper gives lasts for. An expiry beyond it, or in the
// past, is not one: the clocks differ, or the field means something else.
const longestLife = 366 * 24 * time.Hour

// expiryOf is when a secret ends that says so itself; zero: it does not. Those of Azure
// are JSON web tokens (RFC 7519: exp); those of Amazon's ECR are JSON in base64, with an
// expiration in seconds. Neither is checked here, since that is the registry's affair:
// what is believed of it is only that it ends.
func expiryOf(secret string, now time.Time) time.Time {
	var text []byte
	key := "expiration"
	if parts := strings.Split(secret, "."); len(parts) == 3 {
		key = "exp"
		text, _ = base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "=")) // else there is none
	} else {
		text, _ = base64.StdEncoding.DecodeString(secret) // likewise
	}
	var fields map[string]json.RawMessage
	var seconds float64
	if json.Unmarshal(text, &fields) != nil || json.Unmarshal(fields[key], &seconds) != nil {
		return time.Time{}
	}
	if left := seconds - float64(now.Unix()); !(left > 0 && left < longestLife.Seconds()) { // so written that NaN fails too
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}
