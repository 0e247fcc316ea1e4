package extauthz

import "strings"

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
	seen := map[string]bool{}
	for i := range r.authenticators {
		offer := ""
		switch a := &r.authenticators[i]; a.kind {
		case kindAPIKey:
			offer = apiKeyChallenge(r, a)
		case kindToken:
			offer = `Bearer realm="` + r.realm + `"`
		}
		if offer != "" && !seen[offer] {
			seen[offer] = true
			schemes = append(schemes, offer)
		}
	}
	return strings.Join(schemes, ", ")
}

func apiKeyChallenge(r *route, a *authenticator) string {
	return `ApiKey realm="` + r.realm + `", header="` + a.header + `"`
}

// bearerChallenge is the answer to a presented token (RFC 6750 section 3).
func bearerChallenge(r *route, code, description string) string {
	return `Bearer realm="` + r.realm + `", error="` + code + `", error_description="` + description + `"`
}
