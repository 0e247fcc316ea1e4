package extauthz

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// Algorithms of signed requests by their registered names (RFC 9421 section
// 6.2.2).
const (
	SignatureHMACSHA256 = "hmac-sha256"
	SignatureEd25519    = "ed25519"
	SignatureECDSAP256  = "ecdsa-p256-sha256"
	SignatureECDSAP384  = "ecdsa-p384-sha384"
	SignatureRSAPSS     = "rsa-pss-sha512"
	SignatureRSAPKCS1   = "rsa-v1_5-sha256"
)

const (
	maxSignerIDBytes = 256
	minSharedSecret  = 32
	minSignerRSABits = 2048
)

// Signer is a key by which a consumer signs requests. Immutable.
type Signer struct {
	// Proof is who signs.
	Proof Proof
	// Algorithm is the one that the key is for.
	Algorithm string
	// Secret is that of SignatureHMACSHA256; nil for others.
	Secret []byte
	// Public is an ed25519.PublicKey, *ecdsa.PublicKey or *rsa.PublicKey that fits
	// the algorithm; nil for SignatureHMACSHA256.
	Public crypto.PublicKey
	// Expires is when the key stops being accepted; zero means never.
	Expires time.Time
}

// Signer returns the key of an id, nil if there is none.
func (s *ConsumerSet) Signer(id string) *Signer { return s.signers[id] }

// addSigners compiles the signature keys of a consumer.
func (s *ConsumerSet) addSigners(owner *Consumer, sources []*rulesv1.SignatureKey) error {
	var errs []error
	names := map[string]bool{}
	for i, source := range sources {
		field := fmt.Sprintf("signature_keys[%d]", i)
		errs = append(errs, unique(names, field+".name", source.GetName()))
		id := source.GetId()
		if id == "" || len(id) > maxSignerIDBytes {
			errs = append(errs, fmt.Errorf("%s.id: has %d bytes; 1 to %d are accepted", field, len(id), maxSignerIDBytes))
		}
		if other := s.signers[id]; other != nil {
			errs = append(errs, fmt.Errorf("%s.id: already belongs to a key of consumer %q", field, other.Proof.Consumer.Name))
		}
		signer, err := newSigner(owner, source)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.%w", field, err))
			continue
		}
		if s.signers == nil {
			s.signers = map[string]*Signer{}
		}
		s.signers[id] = signer
	}
	return errors.Join(errs...)
}

func newSigner(owner *Consumer, source *rulesv1.SignatureKey) (*Signer, error) {
	signer := &Signer{
		Proof:     Proof{Consumer: owner, Subject: source.GetName(), Tenant: owner.Tenant, Scopes: source.GetScopes()},
		Algorithm: source.GetAlgorithm(),
	}
	if expires := source.GetExpireTime(); expires != nil {
		if err := expires.CheckValid(); err != nil {
			return nil, fmt.Errorf("expire_time: %w", err)
		}
		signer.Expires = expires.AsTime()
	}
	if !ValidScopes(source.GetScopes()) {
		return nil, errors.New("scopes: holds a value that is not a scope (RFC 6749 section 3.3)")
	}
	if signer.Algorithm == SignatureHMACSHA256 {
		if signer.Secret = source.GetSecret(); len(signer.Secret) < minSharedSecret {
			return nil, fmt.Errorf("secret: has %d bytes; the least is %d", len(signer.Secret), minSharedSecret)
		}
		return signer, nil
	}
	public, err := x509.ParsePKIXPublicKey(source.GetPublicKey())
	if err != nil {
		return nil, errors.New("public_key: cannot be read")
	}
	if !signerFits(public, signer.Algorithm) {
		return nil, fmt.Errorf("algorithm: %q is not known, or not one of the key's", signer.Algorithm)
	}
	signer.Public = public
	return signer, nil
}

func signerFits(public crypto.PublicKey, algorithm string) bool {
	switch key := public.(type) {
	case ed25519.PublicKey:
		return algorithm == SignatureEd25519
	case *ecdsa.PublicKey:
		return algorithm == SignatureECDSAP256 && key.Curve == elliptic.P256() || algorithm == SignatureECDSAP384 && key.Curve == elliptic.P384()
	case *rsa.PublicKey:
		return (algorithm == SignatureRSAPSS || algorithm == SignatureRSAPKCS1) && key.N.BitLen() >= minSignerRSABits
	}
	return false
}
