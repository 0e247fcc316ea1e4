package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weir.dev/kit/certname"
	"weir.dev/policy/v1alpha1"
)

// proofs checks the parts of a way that are about proofs of possession.
func (c *checker) proofs(field string, way *v1alpha1.Authentication) {
	if way.ClientCertificate != nil {
		c.clientCertificate(field+".clientCertificate", way.ClientCertificate)
	}
	if way.HTTPSignature != nil {
		c.httpSignature(field+".httpSignature", way.HTTPSignature)
	}
	if way.SenderConstraint != nil {
		if !takesTokens(way) {
			c.fail(CodeInvalid, field+".senderConstraint", "goes with ways that take tokens: jwt and introspection")
		}
		c.senderConstraint(field+".senderConstraint", way.SenderConstraint)
	}
}

// takesTokens reports whether a way takes tokens, which may be bound to a key.
func takesTokens(way *v1alpha1.Authentication) bool {
	return way.JWT != nil || way.Introspection != nil
}

func (c *checker) clientCertificate(field string, way *v1alpha1.ClientCertificateWay) {
	c.certificateSource(field+".source", way.Source)
	c.count(field+".caCertificateRefs", len(way.CACertificateRefs), 0, 8)
	c.count(field+".crlRefs", len(way.CRLRefs), 0, 8)
	c.pemRefs(field+".caCertificateRefs", way.CACertificateRefs)
	c.pemRefs(field+".crlRefs", way.CRLRefs)
	identity := field + ".identity"
	oneOf(c, identity+".from", way.Identity.From, false, v1alpha1.CertificateSPIFFE, v1alpha1.CertificateDNS,
		v1alpha1.CertificateEmail, v1alpha1.CertificateCommonName, v1alpha1.CertificateSubject)
	c.count(identity+".match", len(way.Identity.Match), 1, 64)
	kind := certificateKind(way.Identity.From)
	for i, text := range way.Identity.Match {
		if kind == 0 {
			break
		}
		if _, err := certname.Parse(kind, text); err != nil {
			c.fail(CodeInvalid, fmt.Sprintf("%s.match[%d]", identity, i), "%q %v", text, err)
		}
	}
	c.visible(identity+".issuer", way.Identity.Issuer, 512)
	if way.Identity.Issuer == "" && way.Identity.From != v1alpha1.CertificateSPIFFE {
		c.fail(CodeRequired, identity+".issuer", "is required, but for SPIFFE ids, whose trust domain it is: without one, names of different authorities would be the same caller")
	}
	if len(way.CACertificateRefs) > 0 {
		return
	}
	switch from := certificateTeller(way.Source); {
	case len(way.CRLRefs) > 0:
		c.fail(CodeRequired, field+".caCertificateRefs", "are required with crlRefs")
	case from == v1alpha1.CertificateOfClientCert:
		c.fail(CodeRequired, field+".caCertificateRefs", "are required with source ClientCert: nobody here has verified what the header tells")
	case from == v1alpha1.CertificateOfXFCC && way.Identity.From != v1alpha1.CertificateSPIFFE:
		c.fail(CodeRequired, field+".caCertificateRefs", "are required with source XFCC, but for SPIFFE ids")
	}
}

func certificateKind(name v1alpha1.CertificateName) certname.Kind {
	switch name {
	case v1alpha1.CertificateSPIFFE:
		return certname.SPIFFE
	case v1alpha1.CertificateDNS:
		return certname.DNS
	case v1alpha1.CertificateEmail:
		return certname.Email
	case v1alpha1.CertificateCommonName:
		return certname.CommonName
	case v1alpha1.CertificateSubject:
		return certname.Subject
	}
	return 0
}

// certificateTeller is who tells of certificates, the default filled in.
func certificateTeller(source *v1alpha1.CertificateSource) v1alpha1.CertificateTeller {
	if source == nil || source.From == "" {
		return v1alpha1.CertificateOfConnection
	}
	return source.From
}

func (c *checker) certificateSource(field string, source *v1alpha1.CertificateSource) {
	if source == nil {
		return
	}
	oneOf(c, field+".from", source.From, true, v1alpha1.CertificateOfConnection, v1alpha1.CertificateOfXFCC, v1alpha1.CertificateOfClientCert)
	c.count(field+".trustedCIDRs", len(source.TrustedCIDRs), 0, 64)
	for i, text := range source.TrustedCIDRs {
		if prefix, err := netip.ParsePrefix(text); err != nil || prefix.Bits() == 0 {
			c.fail(CodeInvalid, fmt.Sprintf("%s.trustedCIDRs[%d]", field, i), "%q is not a range such as 10.0.0.0/8; everybody is none", text)
		}
	}
	told := certificateTeller(source) != v1alpha1.CertificateOfConnection
	switch {
	case told && len(source.TrustedCIDRs) == 0:
		c.fail(CodeRequired, field+".trustedCIDRs", "is required with source %s: anybody can send a header", source.From)
	case !told && len(source.TrustedCIDRs) > 0:
		c.fail(CodeInvalid, field+".trustedCIDRs", "goes with XFCC and ClientCert")
	}
	if source.Elements > 16 {
		c.fail(CodeInvalid, field+".elements", "is 1 to 16")
	}
	if source.Elements > 0 && source.From != v1alpha1.CertificateOfXFCC {
		c.fail(CodeInvalid, field+".elements", "goes with XFCC")
	}
}

func (c *checker) senderConstraint(field string, constraint *v1alpha1.SenderConstraint) {
	oneOf(c, field+".require", constraint.Require, true, v1alpha1.BindingAny, v1alpha1.BindingCertificate, v1alpha1.BindingDPoP)
	c.certificateSource(field+".certificate", constraint.Certificate)
	if dpop := constraint.DPoP; dpop != nil {
		c.algorithms(field+".dpop.algorithms", dpop.Algorithms, 0, algorithms())
		c.duration(field+".dpop.maxAge", dpop.MaxAge, time.Second, 10*time.Minute)
		oneOf(c, field+".dpop.scheme", dpop.Scheme, true, "https", "http")
	}
}

func (c *checker) algorithms(field string, list []string, least int, known []string) {
	c.count(field, len(list), least, 16)
	for i, name := range list {
		oneOf(c, fmt.Sprintf("%s[%d]", field, i), name, false, known...)
	}
}

// signatureAlgorithms are those of RFC 9421 section 6.2.2.
func signatureAlgorithms() []string {
	return []string{"hmac-sha256", "ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha512", "rsa-v1_5-sha256"}
}

func (c *checker) httpSignature(field string, way *v1alpha1.HTTPSignatureWay) {
	c.algorithms(field+".algorithms", way.Algorithms, 1, signatureAlgorithms())
	c.count(field+".components", len(way.Components), 0, 32)
	for i, name := range way.Components {
		part := fmt.Sprintf("%s.components[%d]", field, i)
		switch {
		case slices.Index(way.Components, name) < i:
			c.fail(CodeDuplicateName, part, "%q is there twice", name)
		case strings.HasPrefix(name, "@"):
			oneOf(c, part, name, false, "@method", "@target-uri", "@authority", "@scheme", "@path", "@query")
		case name != strings.ToLower(name):
			c.fail(CodeInvalid, part, "%q: names of headers are in lower case here (RFC 9421 section 2.1)", name)
		case name == "signature" || name == "signature-input" || strings.HasPrefix(name, "x-weir-"):
			c.fail(CodeInvalid, part, "%q cannot be covered", name)
		default:
			c.header(part, name)
		}
	}
	c.duration(field+".maxAge", way.MaxAge, time.Second, time.Hour)
	c.visible(field+".tag", way.Tag, 128)
	oneOf(c, field+".scheme", way.Scheme, true, "https", "http")
}

// signatureKeys checks the keys of a Consumer.
func (c *checker) signatureKeys(list string, keys []v1alpha1.SignatureKey) {
	c.count(list, len(keys), 0, 16)
	names, ids := make([]string, len(keys)), make([]string, len(keys))
	for i, key := range keys {
		field := fmt.Sprintf("%s[%d]", list, i)
		names[i], ids[i] = key.Name, key.KeyID
		c.text(field+".keyId", key.KeyID, true, 256)
		c.visible(field+".keyId", key.KeyID, 256)
		oneOf(c, field+".algorithm", key.Algorithm, false, signatureAlgorithms()...)
		oneOf(c, field+".keyRef.kind", key.KeyRef.Kind, true, "ConfigMap", "Secret")
		c.text(field+".keyRef.name", key.KeyRef.Name, true, 253)
		c.text(field+".keyRef.key", key.KeyRef.Key, false, 253)
		if key.Algorithm == "hmac-sha256" && key.KeyRef.Kind != "Secret" {
			c.fail(CodeInvalid, field+".keyRef.kind", "is Secret for hmac-sha256: whoever reads the key can sign with it")
		}
		c.scopes(field+".scopes", key.Scopes)
	}
	c.unique(list, names)
	for i, id := range ids {
		if id != "" && slices.Index(ids, id) < i {
			c.fail(CodeDuplicateName, fmt.Sprintf("%s[%d].keyId", list, i), "%q is used twice", id)
		}
	}
}
