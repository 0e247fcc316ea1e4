package policy

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

// defaultSignatureKey is the key of a SignatureKey's keyRef without one.
const defaultSignatureKey = "key"

// clientCertificate compiles a way by certificate for a listener. One that
// cannot be verified is an error, and the way is left out.
func (r *resolver) clientCertificate(from wonPiece, way *v1alpha1.ClientCertificateWay, l *listener) (*rulesv1.ClientCertificateAuthenticator, error) {
	field := from.origin.Field + ".clientCertificate"
	namespace := from.from.namespace()
	fail := func(field string, err error) error {
		r.reportOnce(from.from.object.problem(CodeRefNotFound, field, err.Error()+"; certificates are refused until it is there"))
		from.from.broken(err.Error())
		return err
	}
	authorities, at, err := r.bundle(namespace, way.CACertificateRefs, defaultAuthorities, checkAuthorities)
	if err != nil {
		return nil, fail(fmt.Sprintf("%s.caCertificateRefs[%d]", field, at), err)
	}
	lists, at, err := r.bundle(namespace, way.CRLRefs, defaultRevocations, checkRevocationLists)
	if err != nil {
		return nil, fail(fmt.Sprintf("%s.crlRefs[%d]", field, at), err)
	}
	if err := r.checkTeller(from, field, way, l); err != nil {
		return nil, err
	}
	return &rulesv1.ClientCertificateAuthenticator{
		Source: certificateSource(way.Source), Authorities: authorities, RevocationLists: lists,
		Name: map[v1alpha1.CertificateName]rulesv1.ClientCertificateAuthenticator_Name{
			v1alpha1.CertificateSPIFFE:     rulesv1.ClientCertificateAuthenticator_NAME_SPIFFE,
			v1alpha1.CertificateDNS:        rulesv1.ClientCertificateAuthenticator_NAME_DNS,
			v1alpha1.CertificateEmail:      rulesv1.ClientCertificateAuthenticator_NAME_EMAIL,
			v1alpha1.CertificateCommonName: rulesv1.ClientCertificateAuthenticator_NAME_COMMON_NAME,
			v1alpha1.CertificateSubject:    rulesv1.ClientCertificateAuthenticator_NAME_SUBJECT,
		}[way.Identity.From],
		Names: way.Identity.Match, Issuer: way.Identity.Issuer,
	}, nil
}

// checkTeller compares what a way asks for with what the listener gives. A
// listener that takes certificates which it cannot verify needs authorities
// here; the others are only told of, since they leave the way without effect.
func (r *resolver) checkTeller(from wonPiece, field string, way *v1alpha1.ClientCertificateWay, l *listener) error {
	if l == nil {
		return nil
	}
	warn := func(format string, args ...any) {
		r.reportOnce(from.from.object.problem(CodeNoClientCert, field, fmt.Sprintf(format, args...)))
	}
	switch certificateTeller(way.Source) {
	case v1alpha1.CertificateOfConnection:
		switch {
		case l.tls == nil || l.tls.Clients == nil:
			warn("listener %s asks clients for no certificate, so that none is ever presented there: attach a TLSPolicy with clientCertificates", l.id())
		case l.tls.Clients.AcceptUntrusted && len(way.CACertificateRefs) == 0:
			err := fmt.Errorf("listener %s takes certificates that it cannot verify (AllowInsecureFallback), and the way names no authorities", l.id())
			r.reportOnce(from.from.object.problem(CodeUnverifiedCert, field+".caCertificateRefs", err.Error()+": anybody could make one, so they are refused"))
			from.from.broken(err.Error())
			return err
		}
	case v1alpha1.CertificateOfXFCC:
		switch mode := r.edgeOf(l).ForwardedClientCert; mode {
		case v1alpha1.XFCCSanitize:
			warn("listener %s removes X-Forwarded-Client-Cert from requests: set forwardedClientCert.mode to ForwardOnly, AlwaysForwardOnly or AppendForward in a HeaderPolicy", l.id())
		case v1alpha1.XFCCSanitizeSet:
			warn("listener %s replaces X-Forwarded-Client-Cert by what it knows of its own connection: take source Connection, or let the header pass", l.id())
		case v1alpha1.XFCCAppendForward:
			if way.Source.Elements < 2 {
				warn("listener %s appends an element to X-Forwarded-Client-Cert where the hop has a certificate: elements is 2 then", l.id())
			}
		}
	}
	return nil
}

// certificateSource is nil for the connection.
func certificateSource(source *v1alpha1.CertificateSource) *rulesv1.ClientCertificateSource {
	message := &rulesv1.ClientCertificateSource{From: rulesv1.ClientCertificateSource_FROM_CONNECTION}
	if source == nil {
		return message
	}
	message.TrustedAddresses = source.TrustedCIDRs
	switch certificateTeller(source) {
	case v1alpha1.CertificateOfXFCC:
		message.From, message.Elements = rulesv1.ClientCertificateSource_FROM_XFCC, max(1, source.Elements)
	case v1alpha1.CertificateOfClientCert:
		message.From = rulesv1.ClientCertificateSource_FROM_CLIENT_CERT
	}
	return message
}

// senderConstraint is nil where a way has none.
func senderConstraint(source *v1alpha1.SenderConstraint) *rulesv1.SenderConstraint {
	if source == nil {
		return nil
	}
	message := &rulesv1.SenderConstraint{
		Require: map[v1alpha1.BindingRequirement]rulesv1.SenderConstraint_Require{
			v1alpha1.BindingAny:         rulesv1.SenderConstraint_REQUIRE_ANY,
			v1alpha1.BindingCertificate: rulesv1.SenderConstraint_REQUIRE_CERTIFICATE,
			v1alpha1.BindingDPoP:        rulesv1.SenderConstraint_REQUIRE_DPOP,
		}[source.Require],
		Certificate: certificateSource(source.Certificate),
	}
	if dpop := source.DPoP; dpop != nil {
		message.Dpop = &rulesv1.DpopTerms{
			Algorithms: dpop.Algorithms, RequireNonce: dpop.RequireNonce, Scheme: dpop.Scheme,
			MaxAge: durationpb.New(durationOr(dpop.MaxAge, time.Minute)),
		}
	}
	return message
}

func httpSignature(way *v1alpha1.HTTPSignatureWay) *rulesv1.HttpSignatureAuthenticator {
	return &rulesv1.HttpSignatureAuthenticator{
		Algorithms: way.Algorithms, Components: way.Components, RequireNonce: way.RequireNonce, Tag: way.Tag, Scheme: way.Scheme,
		MaxAge: durationpb.New(durationOr(way.MaxAge, 5*time.Minute)), BodyUnsigned: way.BodyUnsigned,
	}
}

// signatureKeys compiles the keys by which a consumer signs. One that cannot be
// had, or whose id an earlier consumer uses, is left out.
func (r *resolver) signatureKeys(consumer *Object, keys []v1alpha1.SignatureKey, owners map[string]*Object) []*rulesv1.SignatureKey {
	var compiled []*rulesv1.SignatureKey
	for i, key := range keys {
		field := fmt.Sprintf("spec.signatureKeys[%d]", i)
		if first, taken := owners[key.KeyID]; taken {
			r.report(consumer.problem(CodeDuplicateKeyID, field+".keyId", fmt.Sprintf("is also that of a key of %s, which keeps it", first.Ref)))
			continue
		}
		owners[key.KeyID] = consumer
		message := &rulesv1.SignatureKey{Name: key.Name, Id: key.KeyID, Algorithm: key.Algorithm, Scopes: key.Scopes}
		if key.ExpireTime != nil {
			message.ExpireTime = timestamppb.New(key.ExpireTime.Time)
		}
		value, err := r.signatureKey(consumer.Ref.Namespace, key.KeyRef)
		if err == nil {
			err = setSignatureKey(message, value)
		}
		if err != nil {
			r.report(consumer.problem(CodeRefNotFound, field+".keyRef", err.Error()+"; signatures by this key are refused until it is there"))
			continue
		}
		compiled = append(compiled, message)
	}
	return compiled
}

func (r *resolver) signatureKey(namespace string, ref v1alpha1.PEMRef) ([]byte, error) {
	return r.pemValue(namespace, ref, defaultSignatureKey)
}

// minSharedKey is RFC 2104's advice for SHA-256: no shorter than its output.
const minSharedKey = 32

// setSignatureKey checks a key's value for its algorithm. The error quotes
// nothing of it.
func setSignatureKey(message *rulesv1.SignatureKey, value []byte) error {
	value, err := ofJWK(message, value)
	if err != nil {
		return err
	}
	if message.GetAlgorithm() == "hmac-sha256" {
		if len(value) < minSharedKey {
			return fmt.Errorf("the key has %d bytes; hmac-sha256 wants at least %d", len(value), minSharedKey)
		}
		message.Key = &rulesv1.SignatureKey_Secret{Secret: value}
		return nil
	}
	block, rest := pem.Decode(value)
	if block == nil || block.Type != "PUBLIC KEY" || len(strings.TrimSpace(string(rest))) > 0 {
		return errors.New("the value is not one PUBLIC KEY in PEM, nor a JWK")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return errors.New("the public key cannot be read")
	}
	if !signatureKeyFits(public, message.GetAlgorithm()) {
		return fmt.Errorf("the public key is of a kind that %s does not take", message.GetAlgorithm())
	}
	message.Key = &rulesv1.SignatureKey_PublicKey{PublicKey: block.Bytes}
	return nil
}

func signatureKeyFits(public any, algorithm string) bool {
	switch key := public.(type) {
	case ed25519.PublicKey:
		return algorithm == "ed25519"
	case *ecdsa.PublicKey:
		return algorithm == "ecdsa-p256-sha256" && key.Curve == elliptic.P256() || algorithm == "ecdsa-p384-sha384" && key.Curve == elliptic.P384()
	case *rsa.PublicKey:
		return (algorithm == "rsa-pss-sha512" || algorithm == "rsa-v1_5-sha256") && key.N.BitLen() >= 2048
	}
	return false
}
