// Package assertion verifies what extauthz says of a caller: a short-lived JWT
// (ES256, type weir-assertion+jwt) in a header of the request. It is for services
// that want more than mutual TLS between them and the edge; it knows no other
// kind of token.
package assertion

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"weir.dev/kit/identity"
)

// Header is the usual header, and gRPC metadata key, of assertions.
const Header = "x-weir-assertion"

const (
	tokenType = "weir-assertion+jwt"
	algorithm = "ES256"
	// maxBytes bounds an assertion, maxSetBytes a key set.
	maxBytes    = 8 << 10
	maxSetBytes = 64 << 10
	// leeway is how far clocks may be apart.
	leeway = 10 * time.Second
	// maxLife bounds exp - iat: whatever lives longer is not an assertion.
	maxLife = 5 * time.Minute
	// fresh is how long a key set is used unasked, cooldown is the least time
	// between two fetches, and stale is how long a set serves while it cannot be
	// fetched.
	fresh    = 5 * time.Minute
	cooldown = 10 * time.Second
	stale    = time.Hour
	// fetchTimeout bounds one fetch.
	fetchTimeout = 5 * time.Second
)

// Verifier verifies assertions. Safe for concurrent use.
type Verifier struct {
	issuer, audience, url string
	client                *http.Client

	mu      sync.Mutex
	keys    map[string]*ecdsa.PublicKey
	fetched time.Time
	tried   time.Time
}

// NewVerifier makes a verifier of assertions of an issuer for an audience. The
// key set is fetched from url when it is needed; client bounds and secures that,
// nil is one with a deadline.
func NewVerifier(issuer, audience, url string, client *http.Client) (*Verifier, error) {
	if issuer == "" || audience == "" || url == "" {
		return nil, errors.New("assertion: issuer, audience and the address of the key set are required")
	}
	if client == nil {
		client = &http.Client{Timeout: fetchTimeout}
	}
	return &Verifier{issuer: issuer, audience: audience, url: url, client: client}, nil
}

// payload is what is read of an assertion.
type payload struct {
	Issuer        string   `json:"iss"`
	Audience      []string `json:"aud"`
	IssuedAt      int64    `json:"iat"`
	Expires       int64    `json:"exp"`
	Consumer      string   `json:"consumer"`
	Caller        string   `json:"caller"`
	Tenant        string   `json:"tenant"`
	Tier          string   `json:"tier"`
	Scope         string   `json:"scope"`
	Authenticator string   `json:"authenticator"`
}

// Verify returns the caller that an assertion names, if it is good at now. Errors
// hold nothing of it. It waits for a key set at most, within ctx.
func (v *Verifier) Verify(ctx context.Context, now time.Time, text string) (identity.Identity, error) {
	said, err := v.verify(ctx, now, text)
	if err != nil {
		return identity.Identity{}, fmt.Errorf("assertion: %w", err)
	}
	return identity.Identity{
		Consumer: said.Consumer, Subject: said.Caller, Tenant: said.Tenant, Tier: said.Tier,
		Authenticator: said.Authenticator, Scopes: strings.Fields(said.Scope),
	}, nil
}

func (v *Verifier) verify(ctx context.Context, now time.Time, text string) (*payload, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("has %d bytes; the most is %d", len(text), maxBytes)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("is not of the form header.payload.signature")
	}
	var header struct {
		Algorithm string          `json:"alg"`
		Key       string          `json:"kid"`
		Type      string          `json:"typ"`
		Critical  json.RawMessage `json:"crit"`
	}
	if err := decode(parts[0], &header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if header.Algorithm != algorithm || header.Type != tokenType || header.Critical != nil {
		return nil, errors.New("is not of algorithm ES256 and type " + tokenType)
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		return nil, errors.New("the signature is not one of ES256")
	}
	key, err := v.key(ctx, now, header.Key)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return nil, errors.New("the signature is wrong")
	}
	said := &payload{}
	if err := decode(parts[1], said); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	issued, expires := time.Unix(said.IssuedAt, 0), time.Unix(said.Expires, 0)
	switch {
	case said.Issuer != v.issuer:
		return nil, errors.New("is of another issuer")
	case !slices.Contains(said.Audience, v.audience):
		return nil, errors.New("is for another audience")
	case expires.Sub(issued) > maxLife || !expires.After(issued):
		return nil, errors.New("lives longer than assertions do")
	case now.After(expires.Add(leeway)):
		return nil, errors.New("has expired")
	case issued.After(now.Add(leeway)):
		return nil, errors.New("is of the future")
	}
	return said, nil
}

func decode(part string, into any) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return errors.New("is not base64url")
	}
	if json.Unmarshal(raw, into) != nil {
		return errors.New("is not JSON of the right form")
	}
	return nil
}

// key returns the key of an id. A set is fetched when it is old or lacks the key,
// not more often than the cooldown allows.
func (v *Verifier) key(ctx context.Context, now time.Time, id string) (*ecdsa.PublicKey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, known := v.keys[id]
	age := now.Sub(v.fetched)
	if known && age >= 0 && age < fresh {
		return key, nil
	}
	if wait := now.Sub(v.tried); v.tried.IsZero() || wait < 0 || wait >= cooldown {
		v.tried = now
		if keys, err := v.fetch(ctx); err == nil {
			v.keys, v.fetched, age = keys, now, 0
			key, known = keys[id]
		} else if !known || age >= stale {
			return nil, fmt.Errorf("the key set cannot be had: %w", err)
		}
	}
	if !known || age >= stale {
		return nil, errors.New("is signed by a key that is not known")
	}
	return key, nil
}

func (v *Verifier) fetch(ctx context.Context) (map[string]*ecdsa.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := v.client.Do(request) //nolint:gosec // the address is the operator's
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxSetBytes+1))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK || len(raw) > maxSetBytes {
		return nil, fmt.Errorf("answered %d, %d bytes", response.StatusCode, len(raw))
	}
	return parseKeySet(raw)
}

func parseKeySet(raw []byte) (map[string]*ecdsa.PublicKey, error) {
	var set struct {
		Keys []struct {
			Type  string `json:"kty"`
			Curve string `json:"crv"`
			ID    string `json:"kid"`
			X     string `json:"x"`
			Y     string `json:"y"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, errors.New("the answer is not a JWK Set")
	}
	keys := map[string]*ecdsa.PublicKey{}
	for _, jwk := range set.Keys {
		x, errX := base64.RawURLEncoding.Strict().DecodeString(jwk.X)
		y, errY := base64.RawURLEncoding.Strict().DecodeString(jwk.Y)
		if jwk.Type != "EC" || jwk.Curve != "P-256" || jwk.ID == "" || errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
			continue
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		if err != nil {
			continue
		}
		keys[jwk.ID] = key
	}
	if len(keys) == 0 {
		return nil, errors.New("the JWK Set has no key of curve P-256")
	}
	return keys, nil
}
