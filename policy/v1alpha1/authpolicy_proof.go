package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ClientCertificateWay accepts callers by their X.509 certificates. That clients
// are asked for certificates at all is said by a TLSPolicy.
//
// +kubebuilder:validation:XValidation:rule="!has(self.crlRefs) || self.crlRefs.size() == 0 || has(self.caCertificateRefs) && self.caCertificateRefs.size() > 0",message="crlRefs need caCertificateRefs"
// +kubebuilder:validation:XValidation:rule="!has(self.source) || !has(self.source.from) || self.source.from == 'Connection' || has(self.caCertificateRefs) && self.caCertificateRefs.size() > 0 || self.source.from == 'XFCC' && self.identity.from == 'SPIFFE'",message="caCertificateRefs are required where a hop tells of certificates; only SPIFFE ids in X-Forwarded-Client-Cert go without"
type ClientCertificateWay struct {
	// Source says who tells of the certificate. Default: the TLS connection that
	// the request came on.
	//
	// +optional
	Source *CertificateSource `json:"source,omitempty"`
	// CACertificateRefs are bundles of authorities in PEM, intermediate ones
	// included, that certificates have to chain to; at most 8. Without any, what
	// the listener or the hop has verified counts; the certificate's own times are
	// looked at with every request all the same.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	CACertificateRefs []PEMRef `json:"caCertificateRefs,omitempty"`
	// CRLRefs are revocation lists in PEM; at most 8. They are looked at with every
	// request, and so end the use of connections that are open. Each authority of a
	// chain needs a current one: a client whose authority has none, or one past its
	// next update, is refused.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	CRLRefs  []PEMRef            `json:"crlRefs,omitempty"`
	Identity CertificateIdentity `json:"identity"`
}

// CertificateIdentity says which name of a certificate is the caller's.
//
// +kubebuilder:validation:XValidation:rule="self.from == 'SPIFFE' || has(self.issuer)",message="issuer is required, but for SPIFFE ids, whose trust domain it is"
type CertificateIdentity struct {
	// From is SPIFFE (the certificate's one URI, a SPIFFE id), DNS, Email,
	// CommonName or Subject (the whole one as text, RFC 4514).
	From CertificateName `json:"from"`
	// Match lists the names that are accepted; 1 to 64. A name has to match as a
	// whole; the first that does is the subject. "*" stands for one segment of a
	// SPIFFE id's path ("**" at its end for all that follow), for one label before a
	// domain ("*.example.com"), for the mailboxes of a domain ("*@example.com"), or
	// alone for every name that is not a SPIFFE id. All other characters stand for
	// themselves.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=2048
	Match []string `json:"match"`
	// Issuer of the identity, under which Consumers list its subjects. Default for
	// SPIFFE ids: the trust domain, "spiffe://example.org".
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[\x20-\x7e]*$`
	Issuer string `json:"issuer,omitempty"`
}

// CertificateName is a kind of name in a certificate.
//
// +kubebuilder:validation:Enum=SPIFFE;DNS;Email;CommonName;Subject
type CertificateName string

// Kinds of names.
const (
	CertificateSPIFFE     CertificateName = "SPIFFE"
	CertificateDNS        CertificateName = "DNS"
	CertificateEmail      CertificateName = "Email"
	CertificateCommonName CertificateName = "CommonName"
	CertificateSubject    CertificateName = "Subject"
)

// CertificateSource says who tells of a client's certificate.
//
// +kubebuilder:validation:XValidation:rule="(!has(self.from) || self.from == 'Connection') != (has(self.trustedCIDRs) && self.trustedCIDRs.size() > 0)",message="trustedCIDRs are required where a hop tells of certificates, and go with nothing else"
// +kubebuilder:validation:XValidation:rule="!has(self.elements) || has(self.from) && self.from == 'XFCC'",message="elements go with XFCC"
type CertificateSource struct {
	// From is Connection (default), XFCC (a hop in front, in
	// X-Forwarded-Client-Cert) or ClientCert (a hop in front, in Client-Cert and
	// Client-Cert-Chain, RFC 9440).
	//
	// +optional
	From CertificateTeller `json:"from,omitempty"`
	// TrustedCIDRs hold the addresses of the hops that are believed, as they
	// connect; 1 to 64. Whoever connects from there can speak for anybody.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) && cidr(self).prefixLength() > 0",message="is not a range such as 10.0.0.0/8; everybody is none"
	TrustedCIDRs []string `json:"trustedCIDRs,omitempty"`
	// Elements that X-Forwarded-Client-Cert has to have, 1 (default) to 16; the
	// first is the client's. More come where a hop appends (AppendForward) instead
	// of replacing (SanitizeSet): then the first could be the client's own words.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	Elements uint32 `json:"elements,omitempty"`
}

// CertificateTeller is who tells of a certificate.
//
// +kubebuilder:validation:Enum=Connection;XFCC;ClientCert
type CertificateTeller string

// Tellers of certificates.
const (
	CertificateOfConnection CertificateTeller = "Connection"
	CertificateOfXFCC       CertificateTeller = "XFCC"
	CertificateOfClientCert CertificateTeller = "ClientCert"
)

// SenderConstraint is about tokens that are bound to a key ("cnf", RFC 7800).
// What a token is bound to has to be proven always, with or without it.
type SenderConstraint struct {
	// Require is Any, Certificate (RFC 8705) or DPoP (RFC 9449): tokens that are not
	// bound, or not in this way, are refused. Default: they are not.
	//
	// +optional
	Require BindingRequirement `json:"require,omitempty"`
	// Certificate says where certificates that tokens are bound to are told of.
	// Default: of the connection. No authority has to vouch for them.
	//
	// +optional
	Certificate *CertificateSource `json:"certificate,omitempty"`
	// +optional
	DPoP *DPoPTerms `json:"dpop,omitempty"`
}

// BindingRequirement is what tokens have to be bound to.
//
// +kubebuilder:validation:Enum=Any;Certificate;DPoP
type BindingRequirement string

// What tokens have to be bound to.
const (
	BindingAny         BindingRequirement = "Any"
	BindingCertificate BindingRequirement = "Certificate"
	BindingDPoP        BindingRequirement = "DPoP"
)

// DPoPTerms are what DPoP proofs have to keep to (RFC 9449). A proof is taken
// once.
type DPoPTerms struct {
	// Algorithms accepted; asymmetric ones only. Default ES256, ES384, Ed25519,
	// EdDSA and PS256.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=11
	// +kubebuilder:validation:items:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512;EdDSA;Ed25519
	Algorithms []string `json:"algorithms,omitempty"`
	// MaxAge of a proof without a nonce. Default 1m, 1s to 10m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('10m')",message="is 1s to 10m"
	MaxAge *gatewayv1.Duration `json:"maxAge,omitempty"`
	// RequireNonce demands a nonce of the server, so that proofs cannot be made
	// ahead. Clients are told one with the refusal and have to try again.
	//
	// +optional
	RequireNonce bool `json:"requireNonce,omitempty"`
	// Scheme by which clients call, https (default) or http: the one in front of
	// whatever ends TLS.
	//
	// +optional
	// +kubebuilder:validation:Enum=https;http
	Scheme string `json:"scheme,omitempty"`
}

// HTTPSignatureWay accepts requests that a Consumer has signed with one of its
// signatureKeys (RFC 9421).
type HTTPSignatureWay struct {
	// Algorithms accepted, at least 1: hmac-sha256, ed25519, ecdsa-p256-sha256,
	// ecdsa-p384-sha384, rsa-pss-sha512, rsa-v1_5-sha256.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=6
	// +kubebuilder:validation:items:Enum=hmac-sha256;ed25519;ecdsa-p256-sha256;ecdsa-p384-sha384;rsa-pss-sha512;rsa-v1_5-sha256
	Algorithms []string `json:"algorithms"`
	// Components that signatures have to cover: derived ones (@method,
	// @target-uri, @authority, @scheme, @path, @query) and lower-case names of
	// headers; at most 32. Default @method, @authority, @path and @query.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:Pattern=`^(@method|@target-uri|@authority|@scheme|@path|@query|[a-z0-9!#$%&'*+.^\x60|~-]{1,128})$`
	Components []string `json:"components,omitempty"`
	// MaxAge of a signature, by its "created". Default 5m, 1s to 1h.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="is 1s to 1h"
	MaxAge *gatewayv1.Duration `json:"maxAge,omitempty"`
	// RequireNonce demands a "nonce" in each signature; one is taken once.
	//
	// +optional
	RequireNonce bool `json:"requireNonce,omitempty"`
	// Tag that signatures have to have, so that one made for another application
	// is not taken.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[\x20-\x7e]*$`
	Tag string `json:"tag,omitempty"`
	// Scheme by which clients call, https (default) or http.
	//
	// +optional
	// +kubebuilder:validation:Enum=https;http
	Scheme string `json:"scheme,omitempty"`
	// BodyUnsigned lets requests with a body through whose signature does not cover
	// content-digest: anybody in between could then change the body.
	//
	// +optional
	BodyUnsigned bool `json:"bodyUnsigned,omitempty"`
}

// SignatureKey is a key by which a Consumer signs requests.
//
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'hmac-sha256' || has(self.keyRef.kind) && self.keyRef.kind == 'Secret'",message="keys of hmac-sha256 are secret: keyRef.kind is Secret"
type SignatureKey struct {
	// Name is unique within the consumer.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// KeyID is what signatures name the key by; unique among all Consumers.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[\x20-\x7e]*$`
	KeyID string `json:"keyId"`
	// Algorithm is the one that the key is for.
	//
	// +kubebuilder:validation:Enum=hmac-sha256;ed25519;ecdsa-p256-sha256;ecdsa-p384-sha384;rsa-pss-sha512;rsa-v1_5-sha256
	Algorithm string `json:"algorithm"`
	// KeyRef is a public key in PEM (PUBLIC KEY) or as a JWK (RFC 7517), or for
	// hmac-sha256 at least 32 bytes of a Secret, or a JWK of kind oct with them. Its key defaults to "key".
	KeyRef PEMRef `json:"keyRef"`
	// ExpireTime ends the key; none means never.
	//
	// +optional
	ExpireTime *metav1.Time `json:"expireTime,omitempty"`
	// Scopes granted to requests with this key; at most 64.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Pattern=`^[\x21\x23-\x5b\x5d-\x7e]{1,128}$`
	// +listType=atomic
	Scopes []string `json:"scopes,omitempty"`
}
