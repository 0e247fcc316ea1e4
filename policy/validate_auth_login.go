package policy

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"weir.dev/policy/v1alpha1"
)

func (c *checker) login(field string, login *v1alpha1.Login) {
	c.issuerURL(field+".issuer", login.Issuer)
	c.text(field+".clientID", login.ClientID, true, 512)
	c.secretKeyRef(field+".clientSecretRef", login.ClientSecretRef)
	oneOf(c, field+".clientAuthentication", login.ClientAuthentication, true, v1alpha1.ClientBasic, v1alpha1.ClientPost, v1alpha1.ClientPrivateKeyJWT)
	c.text(field+".assertionAudience", login.AssertionAudience, false, 2048)
	switch signs := login.ClientAuthentication == v1alpha1.ClientPrivateKeyJWT; {
	case signs && login.ClientSecretRef == nil:
		c.required(field + ".clientSecretRef")
	case !signs && login.AssertionAudience != "":
		c.fail(CodeInvalid, field+".assertionAudience", "goes with clientAuthentication PrivateKeyJWT")
	}
	c.count(field+".scopes", len(login.Scopes), 0, 16)
	for i, scope := range login.Scopes {
		if !scopeToken(scope) {
			c.fail(CodeInvalid, fmt.Sprintf("%s.scopes[%d]", field, i), "%q is not a scope (RFC 6749 section 3.3)", scope)
		}
	}
	c.once(field+".scopes", login.Scopes)
	claims := map[string]string{"subject": login.Claims.Subject, "tenant": login.Claims.Tenant, "scopes": login.Claims.Scopes}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		claim := claims[name]
		c.text(field+".claims."+name, claim, false, 256)
	}
	c.count(field+".algorithms", len(login.Algorithms), 0, len(loginAlgorithms()))
	for i, algorithm := range login.Algorithms {
		oneOf(c, fmt.Sprintf("%s.algorithms[%d]", field, i), algorithm, false, loginAlgorithms()...)
	}
	c.once(field+".algorithms", login.Algorithms)
	c.count(field+".authorizationParameters", len(login.AuthorizationParameters), 0, 16)
	for _, name := range slices.Sorted(maps.Keys(login.AuthorizationParameters)) {
		if slices.Contains(ownParameters(), name) || name == "" {
			c.fail(CodeInvalid, field+".authorizationParameters", "%q is set by the login itself", name)
		}
		c.text(field+".authorizationParameters."+name, login.AuthorizationParameters[name], false, 1024)
	}
	c.loginPaths(field+".paths", login)
	if login.PublicPort != nil {
		c.port(field+".publicPort", *login.PublicPort)
	}
	c.loginSession(field+".session", &login.Session)
	c.count(field+".trustedHosts", len(login.TrustedHosts), 0, 16)
	for i, host := range login.TrustedHosts {
		name, port, hasPort := strings.Cut(host, ":")
		at := fmt.Sprintf("%s.trustedHosts[%d]", field, i)
		c.hostname(at, name, false)
		if hasPort && (port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
			c.fail(CodeInvalid, at, "%q is not host or host:port", host)
		}
	}
	c.once(field+".trustedHosts", login.TrustedHosts)
	c.duration(field+".timeout", login.Timeout, 100*time.Millisecond, 10*time.Second)
}

// once refuses values that are there twice.
func (c *checker) once(field string, values []string) {
	for i, value := range values {
		if slices.Contains(values[:i], value) {
			c.fail(CodeDuplicateName, fmt.Sprintf("%s[%d]", field, i), "%q is there twice", value)
		}
	}
}

// ownParameters of the authorization request are the login's.
func ownParameters() []string {
	return []string{
		"client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce",
		"code_challenge", "code_challenge_method", "request", "request_uri",
	}
}

// scopeToken is RFC 6749 section 3.3.
func scopeToken(scope string) bool {
	return scope != "" && len(scope) <= 256 &&
		!strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

func (c *checker) issuerURL(field, issuer string) {
	parsed, err := url.Parse(issuer)
	switch {
	case issuer == "":
		c.required(field)
	case len(issuer) > 512:
		c.fail(CodeTooMany, field, "has %d bytes; the most is 512", len(issuer))
	case err != nil || parsed.Host == "" || parsed.User != nil || strings.ContainsAny(issuer, "?#"):
		c.fail(CodeInvalid, field, "%q is not an https URL without user, query and fragment", issuer)
	case parsed.Scheme == "http" && !isLoopback(parsed.Hostname()):
		c.fail(CodeInvalid, field, "%q: what is said over http can be changed on the way; write https", issuer)
	case parsed.Scheme != "https" && parsed.Scheme != "http":
		c.fail(CodeInvalid, field, "%q: the scheme must be https", issuer)
	}
}

func (c *checker) loginPaths(field string, login *v1alpha1.Login) {
	taken := map[string]string{}
	for _, path := range pathsOf(login).all() {
		switch other := taken[path.value]; {
		case len(path.value) > 256 || !plainPath(path.value):
			c.fail(CodeInvalid, field+"."+path.name, "%q is not a path of letters, digits, '.', '_', '~' and '-' between slashes, none of which a dot follows", path.value)
		case other != "":
			c.fail(CodeInvalid, field+"."+path.name, "%q is the path of %s, too", path.value, other)
		}
		taken[path.value] = path.name
	}
	after := pathsOf(login).after
	if other := taken[after]; other != "" {
		c.fail(CodeInvalid, field+".afterLogout", "%q is the path of %s", after, other)
	}
	if after != "/" && (len(after) > 256 || !plainPath(strings.TrimSuffix(after, "/"))) {
		c.fail(CodeInvalid, field+".afterLogout", "%q is not a path of letters, digits, '.', '_', '~' and '-' between slashes, none of which a dot follows", after)
	}
}

// plainPath has one reading only.
func plainPath(path string) bool {
	if len(path) < 2 || path[0] != '/' {
		return false
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "" || segment[0] == '.' || strings.ContainsFunc(segment, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._~-", r)
		}) {
			return false
		}
	}
	return true
}

func (c *checker) loginSession(field string, session *v1alpha1.LoginSession) {
	oneOf(c, field+".store", session.Store, true, v1alpha1.SessionCookie, v1alpha1.SessionRedis)
	c.secretKeyRef(field+".keysRef", &session.KeysRef)
	if name := session.CookieName; len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) {
		c.fail(CodeInvalid, field+".cookieName", "%q is not 1 to 64 letters, digits, dashes and underscores", name)
	}
	c.duration(field+".lifetime", session.Lifetime, time.Minute, 720*time.Hour)
	c.duration(field+".refresh", session.Refresh, time.Second, 720*time.Hour)
	oneOf(c, field+".sameSite", session.SameSite, true, v1alpha1.SameSiteLax, v1alpha1.SameSiteNone)
}
