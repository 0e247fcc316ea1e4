package extauthz

import (
	"slices"
	"strings"
)

// defaultRealm names the protection space where the rules name none.
const defaultRealm = "weir"

// realm makes a quoted-string's content (RFC 9110 section 5.6.4) out of text.
func realm(text string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, text)
	if clean == "" {
		return defaultRealm
	}
	return clean
}

// offers lists one challenge per scheme that the route accepts, in order, as
// one header value (RFC 9110 section 11.6.1).
func offers(r *route) string {
	var schemes []string
	for i := range r.authenticators {
		method := r.authenticators[i].method
		if method == nil {
			continue
		}
		if offer := method.Challenge(r.realm); offer != "" && !slices.Contains(schemes, offer) {
			schemes = append(schemes, offer)
		}
	}
	return strings.Join(schemes, ", ")
}

// tells collects what the methods of a route say beside their challenges.
func tells(r *route) []Header {
	var headers []Header
	for i := range r.authenticators {
		if teller, ok := r.authenticators[i].method.(Teller); ok {
			headers = append(headers, teller.Tells()...)
		}
	}
	return slices.Clip(headers) // Shared between requests: who appends has to copy.
}

// BearerChallenge is the answer to a presented token (RFC 6750 section 3). The
// arguments are printable and without quotes and backslashes.
func BearerChallenge(realm, code, description string) string {
	return `Bearer realm="` + realm + `", error="` + code + `", error_description="` + description + `"`
}
