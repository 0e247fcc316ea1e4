// Package keyformat is what an API key that Weir issues looks like:
//
//	weir_ID_SECRETsum
//
// ID is the id of the key's resource, in lower-case letters and digits. SECRET
// is 32 random characters of base 62, 190 bits. sum is the CRC-32 (IEEE) of all
// that stands before it, in 6 characters of base 62: a scanner for leaked
// secrets can tell a key from what merely looks like one, without asking
// anybody. Nothing here keeps a key or says that it is good.
package keyformat

import (
	"crypto/rand"
	"fmt"
	"hash/crc32"
	"strings"
)

// Pattern finds keys in text, as a regular expression (RE2).
const Pattern = `weir_[a-z][a-z0-9]{7,62}_[0-9A-Za-z]{38}`

const (
	prefix      = "weir_"
	secretChars = 32
	sumChars    = 6
	minID       = 8
	maxID       = 63
	alphabet    = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// New makes a key with the given id: 8 to 63 lower-case letters and digits, the
// first one a letter.
func New(id string) (string, error) {
	if !validID(id) {
		return "", fmt.Errorf("key id %q: is not 8 to 63 lower-case letters and digits that start with a letter", id)
	}
	key := prefix + id + "_" + secret()
	return key + sum(key), nil
}

// secret draws characters without favouring any: bytes beyond the last whole
// multiple of the alphabet are thrown away.
func secret() string {
	const whole = 256 - 256%len(alphabet)
	out := make([]byte, 0, secretChars)
	var random [2 * secretChars]byte
	for {
		_, _ = rand.Read(random[:]) // never fails since Go 1.24
		for _, b := range random {
			if int(b) >= whole {
				continue
			}
			if out = append(out, alphabet[int(b)%len(alphabet)]); len(out) == secretChars {
				return string(out)
			}
		}
	}
}

func sum(text string) string {
	rest := crc32.ChecksumIEEE([]byte(text))
	var out [sumChars]byte
	for i := sumChars - 1; i >= 0; i-- {
		out[i] = alphabet[rest%uint32(len(alphabet))]
		rest /= uint32(len(alphabet))
	}
	return string(out[:])
}

// Looks reports whether text claims to be a key of ours: cheap, and no
// statement about its form.
func Looks(text string) bool { return strings.HasPrefix(text, prefix) }

// Parse takes the id out of a key; ok is false when the form or the sum is
// wrong. It says nothing about whether such a key was issued.
func Parse(key string) (id string, ok bool) {
	rest, found := strings.CutPrefix(key, prefix)
	if !found {
		return "", false
	}
	id, tail, found := strings.Cut(rest, "_")
	if !found || !validID(id) || len(tail) != secretChars+sumChars {
		return "", false
	}
	for i := range len(tail) {
		if strings.IndexByte(alphabet, tail[i]) < 0 {
			return "", false
		}
	}
	body := len(key) - sumChars
	return id, sum(key[:body]) == key[body:]
}

func validID(id string) bool {
	if len(id) < minID || len(id) > maxID || id[0] < 'a' || id[0] > 'z' {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
