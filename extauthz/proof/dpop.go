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

	"weir.dev/extauthz/jose"
)

// Bounds of a proof.
const (
	maxProofBytes = 8 << 10
	maxIDBytes    = 256
)

// dpopProof is a DPoP proof JWT with a shape as RFC 9449 section 4.2 has it.
// Its signature is not verified yet.
type dpopProof struct {
	compact    jose.Compact
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
	compact, err := jose.Split(text)
	if err != nil {
		return nil, err
	}
	header, err := compact.Header()
	if err != nil {
		return nil, err
	}
	p := &dpopProof{compact: compact}
	if err := p.header(header, algorithms); err != nil {
		return nil, err
	}
	claims, err := jose.ParseObject(compact.Payload)
	if err != nil {
		return nil, fmt.Errorf("its payload %w", err)
	}
	return p, p.claims(claims)
}

func (p *dpopProof) header(header map[string]any, algorithms []string) error {
	if header["typ"] != "dpop+jwt" {
		return errors.New("its typ is not dpop+jwt")
	}
	p.algorithm, _ = header["alg"].(string)
	if !slices.Contains(algorithms, p.algorithm) {
		return errors.New("its alg is not one that the policy accepts")
	}
	if err := jose.CheckHeader(header); err != nil {
		return err
	}
	jwk, ok := header["jwk"].(map[string]any)
	if !ok {
		return errors.New("its header has no jwk")
	}
	if only, set := jwk["alg"]; set && only != p.algorithm {
		return errors.New("its jwk is for another alg")
	}
	var err error
	if p.public, p.thumbprint, err = ParseJWK(jwk); err != nil {
		return fmt.Errorf("its jwk %w", err)
	}
	return nil
}

func (p *dpopProof) claims(claims map[string]any) error {
	for name, into := range map[string]*string{"jti": &p.id, "htm": &p.method, "htu": &p.target} {
		value, ok := claims[name].(string)
		if !ok || value == "" {
			return errors.New("its " + name + " is absent or not text")
		}
		*into = value
	}
	if len(p.id) > maxIDBytes {
		return fmt.Errorf("its jti has %d bytes; the most is %d", len(p.id), maxIDBytes)
	}
	seconds, ok := claims["iat"].(float64)
	if !ok || seconds < 0 || seconds > maxDate || math.IsNaN(seconds) {
		return errors.New("its iat is absent or not a date")
	}
	p.issued = time.Unix(int64(seconds), 0)
	for name, into := range map[string]*string{"ath": &p.tokenHash, "nonce": &p.nonce} {
		if value, set := claims[name]; set {
			if *into, ok = value.(string); !ok {
				return errors.New("its " + name + " is not text")
			}
		}
	}
	return nil
}

// maxDate is the last second of the year 9999.
const maxDate = 253402300799

// verify reports whether the proof is signed by the key that it brings.
func (p *dpopProof) verify() error {
	if jose.Verify(p.algorithm, p.public, p.compact.SigningInput, p.compact.Signature) != nil {
		return errors.New("its signature is wrong")
	}
	return nil
}

// isFor reports what keeps a proof from being one for a request with a token
// (RFC 9449 section 4.3, checks 8, 9 and 12).
//
// targets are the spellings that the request's own may have.
func (p *dpopProof) isFor(method string, targets []string, accessToken string) error {
	if p.method != method {
		return errors.New("its htm is another method than the request's")
	}
	claimed, err := canonicalTarget(p.target)
	if err != nil {
		return fmt.Errorf("its htu %w", err)
	}
	if !slices.Contains(targets, claimed) {
		return errors.New("its htu is another target than the request's")
	}
	sum := sha256.Sum256([]byte(accessToken))
	if subtle.ConstantTimeCompare([]byte(p.tokenHash), []byte(base64.RawURLEncoding.EncodeToString(sum[:]))) != 1 {
		return errors.New("its ath is absent or not the hash of the token")
	}
	return nil
}
