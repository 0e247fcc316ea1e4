package login

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// Bounds of a key ring.
const (
	maxKeys      = 8
	sealVersion  = 1
	sealOverhead = 1 + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead
)

// keyring seals with its first key and opens with all, so that keys can be
// rotated while sessions live. XChaCha20-Poly1305 takes random nonces without a
// practical bound on how many. Safe for concurrent use.
type keyring struct{ keys []cipher.AEAD }

func newKeyring(keys [][]byte) (*keyring, error) {
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("%d keys; give 1 to %d", len(keys), maxKeys)
	}
	ring := &keyring{}
	for i, key := range keys {
		made, err := chacha20poly1305.NewX(key)
		if err != nil {
			return nil, fmt.Errorf("key %d is %d bytes long; a key is 32", i+1, len(key))
		}
		ring.keys = append(ring.keys, made)
	}
	return ring, nil
}

// seal encrypts for a purpose; open needs the same one.
func (r *keyring) seal(plain []byte, purpose string) []byte {
	sealed := make([]byte, 1+chacha20poly1305.NonceSizeX, sealOverhead+len(plain))
	sealed[0] = sealVersion
	_, _ = rand.Read(sealed[1:]) // never fails (crypto/rand)
	return r.keys[0].Seal(sealed, sealed[1:], plain, []byte(purpose))
}

var errSeal = errors.New("the seal is broken, or of a key that is no longer known")

func (r *keyring) open(sealed []byte, purpose string) ([]byte, error) {
	if len(sealed) < sealOverhead || sealed[0] != sealVersion {
		return nil, errSeal
	}
	nonce, text := sealed[1:1+chacha20poly1305.NonceSizeX], sealed[1+chacha20poly1305.NonceSizeX:]
	for _, key := range r.keys {
		if plain, err := key.Open(nil, nonce, text, []byte(purpose)); err == nil {
			return plain, nil
		}
	}
	return nil, errSeal
}
