package policy

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// Bounds of the numbers in policies.
const (
	defaultTranscodingBytes = 1 << 20
	maxTranscodingBytes     = 64 << 20
	minWindow               = time.Second
	maxWindow               = 744 * time.Hour
)

func (c *checker) backend(spec *v1alpha1.BackendSpec) {
	oneOf(c, "spec.protocol", spec.Protocol, true, v1alpha1.ProtocolHTTP, v1alpha1.ProtocolHTTP2, v1alpha1.ProtocolGRPC)
	c.count("spec.endpoints", len(spec.Endpoints), 1, 256)
	for i, endpoint := range spec.Endpoints {
		field := fmt.Sprintf("spec.endpoints[%d]", i)
		c.text(field+".zone", endpoint.Zone, false, 63)
		if socket := endpoint.UnixSocket; socket != "" {
			// sun_path has 108 bytes, the last of which is 0 (unix(7)).
			c.text(field+".unixSocket", socket, true, 107)
			if !strings.HasPrefix(socket, "/") || len(socket) == 1 {
				c.fail(CodeInvalid, field+".unixSocket", "%q is not an absolute path", socket)
			}
			if endpoint.Address != "" || endpoint.Port != 0 {
				c.fail(CodeInvalid, field, "set address and port, or unixSocket")
			}
			continue
		}
		c.port(field+".port", endpoint.Port)
		if endpoint.Address == "" {
			c.required(field + ".address")
		} else if _, err := netip.ParseAddr(endpoint.Address); err != nil {
			if errs := validation.IsDNS1123Subdomain(strings.ToLower(endpoint.Address)); len(errs) > 0 {
				c.fail(CodeInvalid, field+".address", "%q is neither an IP address nor a DNS name", endpoint.Address)
			}
		}
	}
	if tls := spec.TLS; tls != nil {
		switch {
		case (tls.SPIFFEID == "") == (tls.Hostname == ""):
			c.fail(CodeInvalid, "spec.tls", "set exactly one of spiffeID and hostname")
		case tls.SPIFFEID != "" && !spiffePattern.MatchString(tls.SPIFFEID):
			c.fail(CodeInvalid, "spec.tls.spiffeID", "%q is not of the form spiffe://trust-domain/path", tls.SPIFFEID)
		case tls.Hostname != "":
			c.hostname("spec.tls.hostname", tls.Hostname, false)
		}
		if tls.Hostname == "" && (tls.CACertificateRef != nil || len(tls.SubjectAltNames) > 0 || tls.ClientCertificateRef != nil) {
			c.fail(CodeInvalid, "spec.tls", "caCertificateRef, subjectAltNames and clientCertificateRef need hostname")
		}
		if tls.ClientCertificateRef != nil {
			c.text("spec.tls.clientCertificateRef.name", tls.ClientCertificateRef.Name, true, 253)
		}
		if tls.CACertificateRef != nil {
			c.configMapRef("spec.tls.caCertificateRef", *tls.CACertificateRef)
		}
		c.subjectAltNames("spec.tls.subjectAltNames", tls.SubjectAltNames)
	}
	if transcoding := spec.Transcoding; transcoding != nil {
		if spec.Protocol != v1alpha1.ProtocolGRPC {
			c.fail(CodeInvalid, "spec.transcoding", "needs protocol GRPC")
		}
		c.configMapRef("spec.transcoding.descriptorSetRef", transcoding.DescriptorSetRef)
		c.count("spec.transcoding.services", len(transcoding.Services), 1, 64)
		if most := transcoding.MaxRequestBytes; most < 0 || most > maxTranscodingBytes {
			c.fail(CodeInvalid, "spec.transcoding.maxRequestBytes", "%d is outside of 1 to %d", most, maxTranscodingBytes)
		}
	}
}

var spiffePattern = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$`)

func (c *checker) consumer(spec *v1alpha1.ConsumerSpec) {
	c.text("spec.tenant", spec.Tenant, false, 128)
	c.text("spec.tier", spec.Tier, false, 64)
	c.count("spec.apiKeys", len(spec.APIKeys), 0, 64)
	c.count("spec.tokenSubjects", len(spec.TokenSubjects), 0, 64)
	names := make([]string, len(spec.APIKeys))
	for i, key := range spec.APIKeys {
		field := fmt.Sprintf("spec.apiKeys[%d]", i)
		names[i] = key.Name
		if raw, err := hex.DecodeString(key.SHA256); err != nil || len(raw) != 32 || strings.ToLower(key.SHA256) != key.SHA256 {
			c.fail(CodeInvalid, field+".sha256", "is not a SHA-256 in lower-case hex (64 digits); make it with: printf %%s \"$KEY\" | sha256sum")
		}
		c.scopes(field+".scopes", key.Scopes)
	}
	c.unique("spec.apiKeys", names)
	for i, subject := range spec.TokenSubjects {
		field := fmt.Sprintf("spec.tokenSubjects[%d]", i)
		c.text(field+".issuer", subject.Issuer, true, 512)
		c.text(field+".subject", subject.Subject, true, 256)
	}
	c.signatureKeys("spec.signatureKeys", spec.SignatureKeys)
	c.count("spec.attributes", len(spec.Attributes), 0, 16)
	for _, name := range slices.Sorted(maps.Keys(spec.Attributes)) {
		c.attributeName(fmt.Sprintf("spec.attributes[%q]", name), name)
		c.text(fmt.Sprintf("spec.attributes[%q]", name), spec.Attributes[name], false, 256)
	}
}

// scopePattern is scope-token of RFC 6749 section 3.3.
var scopePattern = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]{1,128}$`)

func (c *checker) scopes(field string, scopes []string) {
	c.count(field, len(scopes), 0, 64)
	for i, scope := range scopes {
		if !scopePattern.MatchString(scope) {
			c.fail(CodeInvalid, fmt.Sprintf("%s[%d]", field, i), "%q is not an OAuth scope", scope)
		}
	}
}

func algorithms() []string {
	return append(loginAlgorithms(), "Ed25519")
}

// loginAlgorithms are those of ID tokens: without the name that RFC 9864 has for
// EdDSA with Ed25519, which OpenID providers don't sign by.
func loginAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

func (c *checker) jwt(field string, jwt *v1alpha1.JWT) {
	c.text(field+".issuer", jwt.Issuer, true, 512)
	c.count(field+".audiences", len(jwt.Audiences), 1, 16)
	for i, audience := range jwt.Audiences {
		c.text(fmt.Sprintf("%s.audiences[%d]", field, i), audience, true, 512)
	}
	c.count(field+".algorithms", len(jwt.Algorithms), 1, len(algorithms()))
	for i, algorithm := range jwt.Algorithms {
		oneOf(c, fmt.Sprintf("%s.algorithms[%d]", field, i), algorithm, false, algorithms()...)
	}
	c.duration(field+".leeway", jwt.Leeway, 0, 5*time.Minute)
	c.count(field+".types", len(jwt.Types), 0, 8)
	for i, name := range jwt.Types {
		c.text(fmt.Sprintf("%s.types[%d]", field, i), name, true, 64)
	}
	c.claims(field+".claims", &jwt.Claims)
	c.tokenCache(field+".cache", jwt.Cache)
	c.jwks(field, jwt.Issuer, &jwt.JWKS)
}

func (c *checker) remoteJWKS(field string, remote *v1alpha1.RemoteJWKS) {
	c.secureURL(field+".uri", remote.URI, "keys")
	c.duration(field+".cacheDuration", remote.CacheDuration, time.Second, 24*time.Hour)
	c.duration(field+".maxStale", remote.MaxStale, 0, 7*24*time.Hour)
	c.duration(field+".timeout", remote.Timeout, 100*time.Millisecond, 30*time.Second)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

func (c *checker) cors(field string, cors *gatewayv1.HTTPCORSFilter) {
	c.count(field+".allowOrigins", len(cors.AllowOrigins), 0, 64)
	for i, origin := range cors.AllowOrigins {
		c.origin(fmt.Sprintf("%s.allowOrigins[%d]", field, i), string(origin))
	}
	for i, name := range cors.AllowHeaders {
		if name != "*" {
			c.corsHeader(fmt.Sprintf("%s.allowHeaders[%d]", field, i), string(name))
		}
	}
	for i, name := range cors.ExposeHeaders {
		if name != "*" {
			c.corsHeader(fmt.Sprintf("%s.exposeHeaders[%d]", field, i), string(name))
		}
	}
	if cors.MaxAge < 0 || cors.MaxAge > 86400 {
		c.fail(CodeInvalid, field+".maxAge", "%d is outside of 0 to 86400 seconds", cors.MaxAge)
	}
}

// corsCredentials refuses what the filter of an HTTPRoute has to allow
// (HTTPCORSFilter.allowCredentials: the answer names the request's origin then),
// and an AuthPolicy, whose credentials are at stake, does not.
func (c *checker) corsCredentials(field string, cors *v1alpha1.CORS) {
	if cors.AllowCredentials != nil && *cors.AllowCredentials && slices.Contains(cors.AllowOrigins, "*") {
		c.fail(CodeInvalid, field+".allowCredentials", "cannot be combined with the origin \"*\": any site could then act for the user; list the origins")
	}
}

func (c *checker) corsHeader(field, name string) {
	if !headerPattern.MatchString(name) {
		c.fail(CodeInvalid, field, "%q is not a header name", name)
	}
}

// originPattern is that of v1alpha1.CORSOrigin.
var originPattern = regexp.MustCompile(`^(\*|[A-Za-z][-+.A-Za-z0-9]*://((\*\.)?[-_.A-Za-z0-9]+|\[[0-9A-Fa-f:.]+\])(:([0-9]{1,5}|\*))?)$`)

func (c *checker) origin(field, origin string) {
	if !originPattern.MatchString(origin) {
		c.fail(CodeInvalid, field, "%q is not an origin such as https://app.example.com, https://*.example.com, http://localhost:* or *", origin)
	}
}
