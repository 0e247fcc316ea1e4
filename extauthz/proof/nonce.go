package proof

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

const (
	// nonceStep is how long one nonce is handed out.
	nonceStep = 30 * time.Second
	// nonceLife is for how long a nonce is taken.
	nonceLife = 5 * time.Minute
	// nonceRenew is the age from which a client is told the next one.
	nonceRenew = 2 * time.Minute

	nonceMAC        = 16
	minNonceSecret  = 32
	nonceSeparation = "weir dpop nonce v1"
)

// Nonces makes and takes the server's nonces (RFC 9449 section 8). It keeps no
// state: a nonce is a time and a MAC over it. Safe for concurrent use.
type Nonces struct{ secrets [][]byte }

// NewNonces uses secrets of at least 32 bytes each: the first makes nonces, all
// take them, so that a secret is changed by putting the next one in front.
// Servers that share clients share secrets. Without any it makes its own.
func NewNonces(secrets ...[]byte) (*Nonces, error) {
	for i, secret := range secrets {
		if len(secret) < minNonceSecret {
			return nil, fmt.Errorf("nonce secret %d has %d bytes; the least is %d", i+1, len(secret), minNonceSecret)
		}
	}
	if len(secrets) == 0 {
		secret := make([]byte, minNonceSecret)
		if _, err := rand.Read(secret); err != nil {
			return nil, fmt.Errorf("nonce secret: %w", err)
		}
		secrets = [][]byte{secret}
	}
	return &Nonces{secrets: secrets}, nil
}

// Issue is the nonce of now.
func (n *Nonces) Issue(now time.Time) string {
	var raw [8 + nonceMAC]byte
	binary.BigEndian.PutUint64(raw[:], uint64(now.Truncate(nonceStep).Unix())) //nolint:gosec // any 64 bits do
	copy(raw[8:], sign(n.secrets[0], raw[:8]))
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

func sign(secret, message []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(nonceSeparation))
	mac.Write(message)
	return mac.Sum(nil)[:nonceMAC]
}

// Check reports how old a nonce is; an error if it is none of ours, or too old.
func (n *Nonces) Check(nonce string, now time.Time) (age time.Duration, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(raw) != 8+nonceMAC {
		return 0, errors.New("its nonce is not one of this server")
	}
	for _, secret := range n.secrets {
		if !hmac.Equal(raw[8:], sign(secret, raw[:8])) {
			continue
		}
		age = now.Sub(time.Unix(int64(binary.BigEndian.Uint64(raw)), 0)) //nolint:gosec // as it was written
		if age > nonceLife || age < -nonceStep {
			return age, errors.New("its nonce is too old")
		}
		return age, nil
	}
	return 0, errors.New("its nonce is not one of this server")
}
