package policy

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"weir.dev/policy/v1alpha1"
)

// Bounds of what extauthz takes.
const (
	minCacheTTL   = time.Second
	maxCacheTTL   = time.Hour
	maxRefusalTTL = 5 * time.Minute
	minWait       = 10 * time.Millisecond
	maxWait       = 30 * time.Second
	// maxQuestion bounds one question about a token.
	maxQuestion = 10 * time.Second
)

// tokenWay checks what ways that ask about tokens have, and what any has that
// asks someone.
func (c *checker) tokenWay(field string, way *v1alpha1.Authentication) {
	most := maxWait
	if way.Introspection != nil || way.Kubernetes != nil {
		most = maxQuestion
	}
	c.duration(field+".timeout", way.Timeout, minWait, most)
	oneOf(c, field+".failureMode", way.FailureMode, true, v1alpha1.AuthFailureDeny, v1alpha1.AuthFailureNext)
	if way.Anonymous != nil && (way.Timeout != nil || way.FailureMode != "") {
		c.fail(CodeInvalid, field, "timeout and failureMode are for ways that have to ask someone; anonymous asks nobody")
	}
	if way.Introspection != nil {
		c.introspection(field+".introspection", way.Introspection)
	}
	if kubernetes := way.Kubernetes; kubernetes != nil {
		c.audiences(field+".kubernetes.audiences", kubernetes.Audiences, 1)
		c.text(field+".kubernetes.issuer", kubernetes.Issuer, false, 512)
		c.claims(field+".kubernetes.claims", &kubernetes.Claims)
		c.tokenCache(field+".kubernetes.cache", kubernetes.Cache)
	}
}

func (c *checker) introspection(field string, way *v1alpha1.Introspection) {
	c.secureURL(field+".uri", way.URI, "tokens")
	c.text(field+".issuer", way.Issuer, true, 512)
	c.audiences(field+".audiences", way.Audiences, 0)
	c.text(field+".clientID", way.ClientID, true, 512)
	c.secretKeyRef(field+".clientSecretRef", &way.ClientSecretRef)
	c.clientAuthentication(field, way.ClientAuthentication, way.AssertionAudience)
	if signed := way.SignedResponse; signed != nil {
		at := field + ".signedResponse"
		c.algorithms(at+".algorithms", signed.Algorithms, 1, algorithms())
		c.once(at+".algorithms", signed.Algorithms)
		c.text(at+".audience", signed.Audience, false, 512)
		c.jwks(at, way.Issuer, &signed.JWKS)
	}
	c.claims(field+".claims", &way.Claims)
	c.tokenCache(field+".cache", way.Cache)
}

// clientAuthentication checks how a client proves itself.
func (c *checker) clientAuthentication(field string, how v1alpha1.ClientAuthentication, audience string) {
	oneOf(c, field+".clientAuthentication", how, true, v1alpha1.ClientBasic, v1alpha1.ClientPost, v1alpha1.ClientPrivateKeyJWT)
	c.text(field+".assertionAudience", audience, false, 2048)
	if audience != "" && how != v1alpha1.ClientPrivateKeyJWT {
		c.fail(CodeInvalid, field+".assertionAudience", "goes with clientAuthentication PrivateKeyJWT")
	}
}

func (c *checker) audiences(field string, audiences []string, least int) {
	c.count(field, len(audiences), least, 16)
	for i, audience := range audiences {
		c.text(fmt.Sprintf("%s[%d]", field, i), audience, true, 512)
	}
}

func (c *checker) claims(field string, claims *v1alpha1.ClaimMapping) {
	c.text(field+".subject", claims.Subject, false, 256)
	c.text(field+".tenant", claims.Tenant, false, 256)
	c.text(field+".scopes", claims.Scopes, false, 256)
	c.text(field+".client", claims.Client, false, 256)
}

func (c *checker) tokenCache(field string, cache *v1alpha1.TokenCache) {
	if cache != nil {
		c.duration(field+".ttl", cache.TTL, minCacheTTL, maxCacheTTL)
		c.duration(field+".refusalTTL", cache.RefusalTTL, minCacheTTL, maxRefusalTTL)
	}
}

// jwks checks where an issuer's keys come from.
func (c *checker) jwks(field, issuer string, jwks *v1alpha1.JWKS) {
	set := 0
	for _, is := range []bool{jwks.ConfigMapRef != nil, jwks.Remote != nil, jwks.Discovery != nil} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		c.fail(CodeInvalid, field+".jwks", "set exactly one of configMapRef, remote and discovery")
	case jwks.ConfigMapRef != nil:
		c.configMapRef(field+".jwks.configMapRef", *jwks.ConfigMapRef)
	case jwks.Remote != nil:
		c.remoteJWKS(field+".jwks.remote", jwks.Remote)
	default:
		c.discovery(field+".jwks.discovery", issuer, jwks.Discovery)
	}
}

func (c *checker) discovery(at, issuer string, discovery *v1alpha1.JWKSDiscovery) {
	if discovery.URI != "" {
		c.secureURL(at+".uri", discovery.URI, "keys")
	} else if uri, err := url.Parse(issuer); issuer != "" && (err != nil || !secure(uri) || uri.RawQuery != "") {
		c.fail(CodeDiscovery, at, "the issuer %q is no https URL without a query, so its discovery document cannot be found by it: write discovery.uri", issuer)
	}
	c.duration(at+".cacheDuration", discovery.CacheDuration, time.Second, 24*time.Hour)
	c.duration(at+".maxStale", discovery.MaxStale, 0, 7*24*time.Hour)
	c.duration(at+".timeout", discovery.Timeout, 100*time.Millisecond, 30*time.Second)
}

// secure accepts https, and http on this machine.
func secure(uri *url.URL) bool {
	return uri.Host != "" && uri.User == nil && uri.Fragment == "" &&
		(uri.Scheme == "https" || uri.Scheme == "http" && isLoopback(uri.Hostname()))
}

// secureURL checks an address that what is sent to, or fetched from, matters.
func (c *checker) secureURL(field, text, what string) {
	uri, err := url.Parse(text)
	switch {
	case text == "":
		c.required(field)
	case len(text) > 2048:
		c.fail(CodeTooMany, field, "has %d bytes; the most is 2048", len(text))
	case err != nil || uri.Host == "" || uri.User != nil || uri.Fragment != "":
		c.fail(CodeInvalid, field, "%q is not an https URL without user or fragment", text)
	case uri.Scheme == "http" && !isLoopback(uri.Hostname()):
		c.fail(CodeInvalid, field, "%q: %s sent over http can be read and replaced on the way; write https", text, what)
	case uri.Scheme != "https" && uri.Scheme != "http":
		c.fail(CodeInvalid, field, "%q: the scheme must be https", text)
	}
}

// sameTokens tells of a way that never gets a token: the first one that accepts
// an issuer's tokens judges all of them.
func (c *checker) sameTokens(list string, ways []v1alpha1.Authentication) {
	first := map[string]string{}
	opaque := ""
	for i := range ways {
		way := &ways[i]
		var issuer, field string
		switch {
		case way.JWT != nil:
			issuer, field = way.JWT.Issuer, "jwt"
		case way.Introspection != nil:
			if opaque != "" {
				c.notice(CodeSameTokens, fmt.Sprintf("%s[%d].introspection", list, i), "opaque tokens go to %q, which stands before this way; nothing in such a token tells whom it is of", opaque)
			} else {
				opaque = way.Name
			}
			continue
		case way.Kubernetes != nil:
			issuer, field = "(kubernetes)", "kubernetes"
		default:
			continue
		}
		if before := first[issuer]; before != "" {
			c.notice(CodeSameTokens, fmt.Sprintf("%s[%d].%s", list, i, field), "tokens of %s go to %q, which stands before this way: name both audiences there, or use two policies",
				strings.Trim(issuer, "()"), before)
			continue
		}
		first[issuer] = way.Name
	}
}

func (c *checker) notice(code Code, field, format string, args ...any) {
	c.problems = append(c.problems, c.object.notice(code, field, fmt.Sprintf(format, args...)))
}
