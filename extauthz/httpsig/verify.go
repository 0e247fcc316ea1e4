package httpsig

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"math/big"

	"weir.dev/extauthz"
)

var errSignature = errors.New("the signature is wrong")

// verify checks a signature by the algorithm of its key (RFC 9421 section 3.3).
func verify(key *extauthz.Signer, base string, signature []byte) error {
	message := []byte(base)
	ok := false
	switch key.Algorithm {
	case extauthz.SignatureHMACSHA256:
		mac := hmac.New(sha256.New, key.Secret)
		mac.Write(message)
		ok = hmac.Equal(signature, mac.Sum(nil))
	case extauthz.SignatureEd25519:
		if public, is := key.Public.(ed25519.PublicKey); is {
			ok = ed25519.Verify(public, message, signature)
		}
	case extauthz.SignatureECDSAP256:
		sum := sha256.Sum256(message)
		ok = verifyECDSA(key.Public, elliptic.P256(), sum[:], signature)
	case extauthz.SignatureECDSAP384:
		sum := sha512.Sum384(message)
		ok = verifyECDSA(key.Public, elliptic.P384(), sum[:], signature)
	case extauthz.SignatureRSAPSS:
		if public, is := key.Public.(*rsa.PublicKey); is {
			sum := sha512.Sum512(message)
			ok = rsa.VerifyPSS(public, crypto.SHA512, sum[:], signature, &rsa.PSSOptions{SaltLength: 64, Hash: crypto.SHA512}) == nil
		}
	case extauthz.SignatureRSAPKCS1:
		if public, is := key.Public.(*rsa.PublicKey); is {
			sum := sha256.Sum256(message)
			ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature) == nil
		}
	}
	if !ok {
		return errSignature
	}
	return nil
}

// verifyECDSA reads r and s as numbers of the curve's size, one after the other.
func verifyECDSA(key crypto.PublicKey, curve elliptic.Curve, sum, signature []byte) bool {
	public, ok := key.(*ecdsa.PublicKey)
	size := curve.Params().BitSize / 8
	if !ok || public.Curve != curve || len(signature) != 2*size {
		return false
	}
	return ecdsa.Verify(public, sum, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
}

// checkDigest holds a whole body to a Content-Digest header (RFC 9530 section
// 2): every digest of a kind that is known has to be right, and there has to be
// one.
func checkDigest(header string, body []byte) error {
	members, err := parseDictionary(header)
	if err != nil {
		return err
	}
	known := false
	for i := range members {
		m := &members[i]
		var want []byte
		switch m.name {
		case "sha-256":
			sum := sha256.Sum256(body)
			want = sum[:]
		case "sha-512":
			sum := sha512.Sum512(body)
			want = sum[:]
		default:
			continue
		}
		have, ok := m.items[0].value.([]byte)
		if m.list || !ok || subtle.ConstantTimeCompare(have, want) != 1 {
			return errors.New("the body has another " + m.name)
		}
		known = true
	}
	if !known {
		return errors.New("content-digest has neither sha-256 nor sha-512")
	}
	return nil
}
