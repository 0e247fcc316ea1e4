package login

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// Timing of a provider's keys.
const (
	keysFresh = 5 * time.Minute
	// keysStale is how long past that they serve while the provider fails.
	keysStale = time.Hour
	// keysCooldown is the least time between two fetches that unknown key ids
	// cause, and between two tries when the first failed.
	keysCooldown = 10 * time.Second
)

// keySet is a provider's keys, fetched when needed. It is go-oidc's KeySet with
// bounds on the age of keys and on the fetches that strangers can cause. Safe
// for concurrent use.
type keySet struct {
	client     *http.Client
	uri        string
	algorithms []jose.SignatureAlgorithm
	clock      func() time.Time
	timeout    time.Duration

	mu        sync.Mutex // held while fetching: one at a time
	keys      map[string]jose.JSONWebKey
	unnamed   []jose.JSONWebKey
	fetched   time.Time
	attempted time.Time
	err       error
}

// VerifySignature implements oidc.KeySet.
func (k *keySet) VerifySignature(ctx context.Context, text string) ([]byte, error) {
	signed, err := jose.ParseSigned(text, k.algorithms)
	if err != nil {
		return nil, errors.New("the token is not a JWS of an accepted algorithm")
	}
	if len(signed.Signatures) != 1 {
		return nil, errors.New("the token has not exactly one signature")
	}
	keys, err := k.find(ctx, signed.Signatures[0].Header.KeyID)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		if keys[i].Algorithm != "" && keys[i].Algorithm != signed.Signatures[0].Header.Algorithm {
			continue
		}
		if payload, err := signed.Verify(keys[i].Key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("no key of the provider fits the token's signature")
}

// find returns the keys of an id, all of them when the token names none.
func (k *keySet) find(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock()
	age := now.Sub(k.fetched)
	rested := now.Sub(k.attempted) >= keysCooldown || now.Before(k.attempted)
	if (k.fetched.IsZero() || age >= keysFresh || age < 0) && (rested || k.attempted.IsZero()) {
		k.fetch(ctx, now)
	}
	if found := k.known(id, now); found != nil {
		return found, nil
	}
	if now.Sub(k.attempted) >= keysCooldown {
		k.fetch(ctx, now)
		if found := k.known(id, now); found != nil {
			return found, nil
		}
	}
	if k.err != nil {
		return nil, unavailable(fmt.Errorf("keys of the provider: %w", k.err))
	}
	return nil, errors.New("the provider has no key with the token's id")
}

func (k *keySet) known(id string, now time.Time) []jose.JSONWebKey {
	if now.Sub(k.fetched) >= keysFresh+keysStale {
		return nil
	}
	if id == "" {
		return k.unnamed
	}
	if key, ok := k.keys[id]; ok {
		return []jose.JSONWebKey{key}
	}
	return nil
}

func (k *keySet) fetch(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	k.attempted = now
	raw, err := get(ctx, k.client, k.uri, "")
	if k.err = err; err != nil {
		return
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if k.err = json.Unmarshal(raw, &set); k.err != nil {
		return
	}
	keys, unnamed := map[string]jose.JSONWebKey{}, []jose.JSONWebKey{}
	for _, one := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(one) != nil || !usable(&key) { // a kind that we do not know is no fault
			continue
		}
		unnamed = append(unnamed, key)
		if key.KeyID != "" {
			keys[key.KeyID] = key
		}
	}
	if len(unnamed) == 0 {
		k.err = errors.New("the key set has no public signature key")
		return
	}
	k.keys, k.unnamed, k.fetched = keys, unnamed, now
}

func usable(key *jose.JSONWebKey) bool {
	if !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
		return false
	}
	if public, ok := key.Key.(*rsa.PublicKey); ok {
		return public.N.BitLen() >= 2048
	}
	return true
}
