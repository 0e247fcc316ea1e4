package apikey

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"time"

	"weir.dev/extauthz/internal/textsum"
)

// MaxKeyBytes bounds a key as sent; longer ones are not looked up.
const MaxKeyBytes = 512

// Digest is the SHA-256 of a key as sent. Keys are random and long, so a fast
// digest is enough; a password would need a slow one.
type Digest = [sha256.Size]byte

// Key is one indexed key.
type Key[Owner any] struct {
	Digest Digest
	// Expires is when the key stops being accepted; zero means never.
	Expires time.Time
	Owner   Owner
}

// Index finds keys by digest. It is immutable and safe for concurrent use.
type Index[Owner any] struct {
	keys []Key[Owner]
	// slots maps the first 8 bytes of a digest to the place of the last key
	// that has them; chain links keys that share them. The map gives away at
	// most timing about a digest's prefix, which nobody can steer towards a
	// wanted key; the whole digest is compared in constant time.
	slots map[uint64]int32
	chain []int32
}

// none ends a chain.
const none = -1

// NewIndex indexes keys, whose digests must differ; when two are equal,
// NewIndex returns nil and their places.
func NewIndex[Owner any](keys []Key[Owner]) (index *Index[Owner], first, second int) {
	index = &Index[Owner]{keys: keys, slots: make(map[uint64]int32, len(keys)), chain: make([]int32, len(keys))}
	for i := range keys {
		prefix := binary.LittleEndian.Uint64(keys[i].Digest[:])
		next, taken := index.slots[prefix]
		if !taken {
			next = none
		}
		for at := next; at != none; at = index.chain[at] {
			if keys[at].Digest == keys[i].Digest {
				return nil, int(at), i
			}
		}
		index.chain[i] = next
		index.slots[prefix] = int32(i)
	}
	return index, 0, 0
}

// Len is the number of keys.
func (x *Index[Owner]) Len() int { return len(x.keys) }

// Find returns the entry of a key as sent, nil if there is none. The caller
// checks expiry and must not change the entry.
func (x *Index[Owner]) Find(key string) *Key[Owner] {
	digest, ok := Sum(key)
	if !ok {
		return nil
	}
	return x.FindDigest(digest)
}

// Sum is the digest of a key as sent; ok is false when it is empty or longer
// than MaxKeyBytes.
func Sum(key string) (digest Digest, ok bool) {
	if key == "" || len(key) > MaxKeyBytes {
		return digest, false
	}
	return textsum.Sum(key), true
}

// FindDigest is Find for a digest made by Sum.
func (x *Index[Owner]) FindDigest(digest Digest) *Key[Owner] {
	at, ok := x.slots[binary.LittleEndian.Uint64(digest[:])]
	if !ok {
		return nil
	}
	for ; at != none; at = x.chain[at] {
		if subtle.ConstantTimeCompare(x.keys[at].Digest[:], digest[:]) == 1 {
			return &x.keys[at]
		}
	}
	return nil
}

// Expired reports whether the key is no longer accepted at now.
func (k *Key[Owner]) Expired(now time.Time) bool {
	return !k.Expires.IsZero() && !now.Before(k.Expires)
}
