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
	if s == "" || len(s) > maxName {
		return false
	}
	for s != "" {
		n := component(s)
		if n == 0 {
			return false
		}
		if n == len(s) {
			return true
		}
		if s[n] != '/' {
			return false
		}
		s = s[n+1:]
	}
	return false // ends in a slash
}

// component is the length of the longest name component that s begins with.
func component(s string) int {
	i := alphanumerics(s)
	if i == 0 {
		return 0
	}
	for {
		sep := separator(s[i:])
		if sep == 0 {
			return i
		}
		n := alphanumerics(s[i+sep:])
		if n == 0 {
			return i
		}
		i += sep + n
	}
}

func alphanumerics(s string) int {
	i := 0
	for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= '0' && s[i] <= '9') {
		i++
	}
	return i
}

// separator is the length of ".", "_", "__" or any run of dashes at the start of s.
func separator(s string) int {
	switch {
	case s == "":
		return 0
	case s[0] == '.':
		return 1
	case s[0] == '_':
		if len(s) > 1 && s[1] == '_' {
			return 2
		}
		return 1
	}
	i := 0
	for i < len(s) && s[i] == '-' {
		i++
	}
	return i
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
