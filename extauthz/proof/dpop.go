package proof

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"weir.dev/extauthz/token"
)

// Bounds of a proof.
const (
	maxProofBytes = 8 << 10
	maxIDBytes    = 256
)

// dpopProof is a DPoP proof JWT with a shape as RFC 9449 section 4.2 has it.
// Its signature is not verified yet.
type dpopProof struct {
	jws        *token.JWS
	algorithm  string
	public     crypto.PublicKey
	thumbprint string

	id, method, target string
	issued             time.Time
	tokenHash, nonce   string
}

// parseProof takes a proof apart. The error holds no part of it.
func parseProof(text string, algorithms []string) (*dpopProof, error) {
	if len(text) > maxProofBytes {
		return nil, fmt.Errorf("it has %d bytes; the most is %d", len(text), maxProofBytes)
	}
	jws, err := token.ParseJWS(text)
	if err != nil {
		return nil, err
	}
	p := &dpopProof{jws: jws}
	if err := p.header(algorithms); err != nil {
		return nil, err
	}
	return p, p.claims()
}

func (p *dpopProof) header(algorithms []string) error {
	if p.jws.Header["typ"] != "dpop+jwt" {
		return errors.New("its typ is not dpop+jwt")
	}
	p.algorithm, _ = p.jws.Header["alg"].(string)
	if !slices.Contains(algorithms, p.algorithm) {
		return errors.New("its alg is not one that the policy accepts")
	}
	for _, name := range []string{"crit", "b64", "zip", "enc", "cty"} {
		if _, set := p.jws.Header[name]; set {
			return errors.New("its header has " + name + ", which is not supported")
		}
	}
	jwk, ok := p.jws.Header["jwk"].(map[string]any)
	if !ok {
		return errors.New("its header has no jwk")
	}
	var err error
	if p.public, p.thumbprint, err = token.ParseJWK(jwk, p.algorithm); err != nil {
		return fmt.Errorf("its jwk %w", err)
	}
	return nil
}

func (p *dpopProof) claims() error {
	for name, into := range map[string]*string{"jti": &p.id, "htm": &p.method, "htu": &p.target} {
		value, ok := p.jws.Claims[name].(string)
		if !ok || value == "" {
			return errors.New("its " + name + " is absent or not text")
		}
		*into = value
	}
	if len(p.id) > maxIDBytes {
		return fmt.Errorf("its jti has %d bytes; the most is %d", len(p.id), maxIDBytes)
	}
	seconds, ok := p.jws.Claims["iat"].(float64)
	if !ok || seconds < 0 || seconds > maxDate || math.IsNaN(seconds) {
		return errors.New("its iat is absent or not a date")
	}
	p.issued = time.Unix(int64(seconds), 0)
	for name, into := range map[string]*string{"ath": &p.tokenHash, "nonce": &p.nonce} {
		if value, set := p.jws.Claims[name]; set {
			if *into, ok = value.(string); !ok {
				return errors.New("its " + name + " is not text")
			}
		}
	}
	return nil
}

// maxDate is the last second of the year 9999.
const maxDate = 253402300799

// isFor reports what keeps a proof from being one for a request with a token
// (RFC 9449 section 4.3, checks 8, 9 and 12).
func (p *dpopProof) isFor(method, target, accessToken string) error {
	if p.method != method {
		return errors.New("its htm is another method than the request's")
	}
	claimed, err := canonicalTarget(p.target)
	if err != nil {
		return fmt.Errorf("its htu %w", err)
	}
	if claimed != target {
		return errors.New("its htu is another target than the request's")
	}
	sum := sha256.Sum256([]byte(accessToken))
	if subtle.ConstantTimeCompare([]byte(p.tokenHash), []byte(base64.RawURLEncoding.EncodeToString(sum[:]))) != 1 {
		return errors.New("its ath is absent or not the hash of the token")
	}
	return nil
}
