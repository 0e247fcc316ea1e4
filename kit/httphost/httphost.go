package httphost

import "strings"

// Canonical is the lower-case host of an authority without port, brackets
// and final dot; ok is false when the authority cannot be one (RFC 9110 section
// 4.2.3, RFC 3986 section 3.2.2). It does not allocate for one that is as it is to be.
func Canonical(authority string) (host string, ok bool) {
	host = authority
	if strings.HasPrefix(authority, "[") {
		inner, rest, found := strings.Cut(authority[1:], "]")
		if !found || inner == "" || (rest != "" && !validPort(rest)) {
			return "", false
		}
		host = inner
		for i := range len(host) {
			c := host[i]
			if !isHex(c) && c != ':' && c != '.' {
				return "", false
			}
		}
		return strings.ToLower(host), true
	}
	if colon := strings.IndexByte(authority, ':'); colon >= 0 {
		if !validPort(authority[colon:]) {
			return "", false
		}
		host = authority[:colon]
	}
	host = strings.TrimSuffix(host, ".")
	for i := range len(host) {
		c := host[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`/\?#@[]%,"<>`, c) >= 0 {
			return "", false
		}
	}
	return strings.ToLower(host), host != ""
}

// validPort reports whether text is ":" and one to five digits.
func validPort(text string) bool {
	if len(text) < 2 || len(text) > 6 || text[0] != ':' {
		return false
	}
	for i := 1; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
