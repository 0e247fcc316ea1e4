package extauthz

import "strings"

// MaxIdentityBytes bounds one value of an identity header.
const MaxIdentityBytes = 2 << 10

// ValidHeaderValue reports whether a value reaches a service unchanged and as
// one value, in a header and in gRPC metadata alike: printable ASCII, no outer
// spaces (they would be trimmed, which makes two identities one), bounded, not
// empty.
func ValidHeaderValue(value string) bool {
	if value == "" || len(value) > MaxIdentityBytes || value[0] == ' ' || value[len(value)-1] == ' ' {
		return false
	}
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return true
}

// ValidScopes reports whether each value is a scope-token (RFC 6749 section
// 3.3), so that none can pass as two, and all fit one header.
func ValidScopes(scopes []string) bool {
	total := 0
	for _, scope := range scopes {
		if scope == "" {
			return false
		}
		for i := range len(scope) {
			if c := scope[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
				return false
			}
		}
		total += len(scope) + 1
	}
	return total <= MaxIdentityBytes
}

// headerName reports whether name is a lower-case field name (RFC 9110 section
// 5.6.2). An underscore is refused: parts of the path may drop such headers or
// read them as dashes.
func headerName(name string) bool {
	if name == "" || len(name) > 128 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		lower := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !lower && strings.IndexByte("-!#$&'*+.^`|~", c) < 0 {
			return false
		}
	}
	return true
}
