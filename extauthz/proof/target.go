package proof

import (
	"errors"
	"net/url"
	"strings"
)

// canonicalTarget is the one spelling of an http or https URI without query and
// fragment (RFC 9449 section 4.3, by RFC 3986 sections 6.2.2 and 6.2.3):
// scheme and host in lower case, no default port, escapes in upper case and
// only where they are needed.
func canonicalTarget(text string) (string, error) {
	if len(text) > maxProofBytes {
		return "", errors.New("is too long")
	}
	parsed, err := url.Parse(text)
	if err != nil {
		return "", errors.New("is not a URI")
	}
	if parsed.User != nil || parsed.Host == "" || parsed.Opaque != "" {
		return "", errors.New("is not an absolute URI of a host")
	}
	return joinTarget(strings.ToLower(parsed.Scheme), parsed.Host, parsed.EscapedPath())
}

// joinTarget is canonicalTarget of parts.
func joinTarget(scheme, authority, path string) (string, error) {
	if scheme != "https" && scheme != "http" {
		return "", errors.New("is neither https nor http")
	}
	host := strings.ToLower(authority)
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		port := host[colon+1:]
		if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
			host = host[:colon]
		}
	}
	if path == "" {
		path = "/"
	}
	var b strings.Builder
	b.Grow(len(scheme) + len(host) + len(path) + 3)
	b.WriteString(scheme)
	b.WriteString("://")
	b.WriteString(host)
	if err := writePath(&b, path); err != nil {
		return "", err
	}
	return b.String(), nil
}

// writePath spells each escape in one way. Segments stay as they are: a proof
// for /a/../b is one for nothing, since no request has such a path here.
func writePath(b *strings.Builder, path string) error {
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b.WriteByte(path[i])
			continue
		}
		if i+2 >= len(path) {
			return errors.New("has an escape that is cut off")
		}
		high, ok1 := unhex(path[i+1])
		low, ok2 := unhex(path[i+2])
		if !ok1 || !ok2 {
			return errors.New("has an escape that is not hexadecimal")
		}
		if c := high<<4 | low; unreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexDigits[high])
			b.WriteByte(hexDigits[low])
		}
		i += 2
	}
	return nil
}

const hexDigits = "0123456789ABCDEF"

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}
