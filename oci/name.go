package oci

const (
	maxName = 255 // distribution spec: many clients limit host and name together to this
	maxTag  = 128 // distribution spec: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
)

// ValidName says whether s is a repository name as the distribution
// specification writes it: components of [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
// separated by slashes, at most 255 bytes.
//
// A loop and not a regular expression, since every warm pull goes through it;
// a test holds it to the reference library's grammar.
func ValidName(s string) bool {
	if len(s) > maxName {
		return false
	}
	last := byte('/') // a letter or digit counts as 'a', a second "_" as '2'
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			c = 'a'
		case last == 'a' && (c == '/' || c == '.' || c == '_' || c == '-'):
		case last == '-' && c == '-':
		case last == '_' && c == '_':
			c = '2' // no third may follow
		default:
			return false
		}
		last = c
	}
	return last == 'a'
}

// ValidTag says whether s is a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}.
func ValidTag(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '_' || c == '.' || c == '-'
		if !ok {
			return false
		}
	}
	return true
}
