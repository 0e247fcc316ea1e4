package assertion

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// MaxLifetime bounds an assertion.
const MaxLifetime = 5 * time.Minute

// publishAhead is how long a key is published before it signs, and how long at
// least after it signed last: verifiers keep a key set no longer than that.
const publishAhead = 10 * time.Minute

// Keys are the signing keys: one signs, the one before it is published until
// what it signed has expired, and the one after it is published ahead. Safe for
// concurrent use.
type Keys struct {
	rotation time.Duration
	clock    func() time.Time
	mu       sync.Mutex
	state    atomic.Pointer[keyState]
}

// keyState is immutable.
type keyState struct {
	previous, current, next *key
	// rotates is when next begins to sign.
	rotates time.Time
	set     []byte
}

type key struct {
	id      string
	private *ecdsa.PrivateKey
	// header is the JWS header, encoded.
	header string
}

// NewKeys makes keys that rotate so often, at least every 30 minutes' time and
// at most every 30 days; clock is time.Now outside tests.
func NewKeys(rotation time.Duration, clock func() time.Time) (*Keys, error) {
	if rotation < 30*time.Minute || rotation > 30*24*time.Hour {
		return nil, fmt.Errorf("%s is outside 30m to 720h", rotation)
	}
	k := &Keys{rotation: rotation, clock: clock}
	current, err := newKey()
	if err != nil {
		return nil, err
	}
	next, err := newKey()
	if err != nil {
		return nil, err
	}
	return k, k.swap(&keyState{current: current, next: next, rotates: clock().Add(rotation)})
}

func newKey() (*key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("assertion key: %w", err)
	}
	x, y, err := coordinates(private)
	if err != nil {
		return nil, err
	}
	// RFC 7638 section 3.1: required members in lexicographic order.
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	made := &key{id: base64.RawURLEncoding.EncodeToString(sum[:]), private: private}
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Key       string `json:"kid"`
		Type      string `json:"typ"`
	}{"ES256", made.id, Type})
	if err != nil {
		return nil, err
	}
	made.header = base64.RawURLEncoding.EncodeToString(header)
	return made, nil
}

func coordinates(private *ecdsa.PrivateKey) (x, y string, err error) {
	point, err := private.PublicKey.Bytes()
	if err != nil {
		return "", "", fmt.Errorf("assertion key: %w", err)
	}
	half := (len(point) - 1) / 2
	return base64.RawURLEncoding.EncodeToString(point[1 : 1+half]), base64.RawURLEncoding.EncodeToString(point[1+half:]), nil
}

// swap publishes a state.
func (k *Keys) swap(state *keyState) error {
	type jwk struct {
		Type      string `json:"kty"`
		Curve     string `json:"crv"`
		X         string `json:"x"`
		Y         string `json:"y"`
		ID        string `json:"kid"`
		Use       string `json:"use"`
		Algorithm string `json:"alg"`
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	for _, published := range []*key{state.current, state.next, state.previous} {
		if published == nil {
			continue
		}
		x, y, err := coordinates(published.private)
		if err != nil {
			return err
		}
		set.Keys = append(set.Keys, jwk{"EC", "P-256", x, y, published.id, "sig", "ES256"})
	}
	var err error
	if state.set, err = json.Marshal(set); err != nil {
		return err
	}
	k.state.Store(state)
	return nil
}

// signing is the key that signs now. A key that cannot be made leaves the old
// ones in use.
func (k *Keys) signing() *key {
	state := k.state.Load()
	if k.clock().Before(state.rotates) {
		return state.current
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	state = k.state.Load()
	now := k.clock()
	if now.Before(state.rotates) {
		return state.current
	}
	next, err := newKey()
	if err != nil {
		return state.current
	}
	if err := k.swap(&keyState{previous: state.current, current: state.next, next: next, rotates: now.Add(k.rotation)}); err != nil {
		return state.current
	}
	return state.next
}

// ServeHTTP answers with the key set.
func (k *Keys) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	k.signing() // rotates when it is time, even when nothing is signed
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "max-age="+strconv.Itoa(int((publishAhead/2).Seconds())))
	_, _ = w.Write(k.state.Load().set)
}
