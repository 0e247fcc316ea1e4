package token

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/bearer"
	"weir.dev/extauthz/internal/claims"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/jose"
)

// Defaults and bounds of a provider, as auth.proto documents them.
const (
	defaultFresh    = 5 * time.Minute
	defaultMaxStale = time.Hour
	defaultTimeout  = 5 * time.Second
	defaultCooldown = 10 * time.Second
	defaultRetry    = time.Second
	defaultCacheTTL = 5 * time.Minute

	maxFresh    = 24 * time.Hour
	maxMaxStale = 7 * 24 * time.Hour
	maxTimeout  = 30 * time.Second
	maxLeeway   = 5 * time.Minute
)

// Events hears what happens, for metrics. Methods are called concurrently and
// must not block.
type Events interface {
	// TokenCache is called for each look-up: "hit", "negative" or "miss".
	TokenCache(outcome string)
	// KeySetFetch is called after each fetch of a key set; err is nil if it was
	// good.
	KeySetFetch(err error)
}

// Options of Verifiers; the zero value is good.
type Options struct {
	// CacheBytes bounds the cache of verified tokens by its approximate size.
	// Zero means 64 MiB.
	CacheBytes uint64
	// CacheTTL bounds how long one verification is remembered, whatever a
	// provider says. Zero means 5 minutes.
	CacheTTL time.Duration
	// Cache and Chooser may be shared with other methods; made when nil, the
	// cache of CacheBytes.
	Cache   *proofs.Cache
	Chooser *bearer.Chooser
	// Cooldown is the least time between two fetches that unknown key ids cause.
	// Zero means 10 seconds.
	Cooldown time.Duration
	// Events may be nil.
	Events Events
}

// Verifiers makes verifiers that share one cache and, per key set URI, one copy
// of the keys. Safe for concurrent use.
type Verifiers struct {
	cache      *proofs.Cache
	ttl        time.Duration
	chooser    *bearer.Chooser
	events     Events
	cooldown   time.Duration
	fetcher    fetcher
	generation atomic.Uint64

	mu sync.Mutex
	// Both hold on weakly: what no rule uses any more goes away by itself.
	verifiers map[[sha256.Size]byte]weak.Pointer[Verifier]
	remotes   map[remoteID]weak.Pointer[remoteKeys]
}

// NewVerifiers makes Verifiers.
func NewVerifiers(options Options) (*Verifiers, error) {
	if options.Events == nil {
		options.Events = noEvents{}
	}
	if options.Cooldown == 0 {
		options.Cooldown = defaultCooldown
	}
	if options.CacheTTL == 0 {
		options.CacheTTL = defaultCacheTTL
	}
	if options.Chooser == nil {
		options.Chooser = bearer.NewChooser()
	}
	if options.Cache == nil {
		var err error
		if options.Cache, err = proofs.New(options.CacheBytes); err != nil {
			return nil, err
		}
	}
	return &Verifiers{
		cache: options.Cache, ttl: options.CacheTTL, chooser: options.Chooser,
		events: options.Events, cooldown: options.Cooldown, fetcher: newHTTPFetcher(),
		verifiers: map[[sha256.Size]byte]weak.Pointer[Verifier]{},
		remotes:   map[remoteID]weak.Pointer[remoteKeys]{},
	}, nil
}

type noEvents struct{}

func (noEvents) TokenCache(string) {}
func (noEvents) KeySetFetch(error) {}

// Verifier returns the verifier of a provider. Equal providers share what they
// have fetched. The error names the field of provider at fault.
func (v *Verifiers) Verifier(provider *rulesv1.JwtAuthenticator) (*Verifier, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(provider)
	if err != nil {
		return nil, fmt.Errorf("jwt: %w", err)
	}
	digest := sha256.Sum256(raw)
	v.mu.Lock()
	defer v.mu.Unlock()
	if known := v.verifiers[digest].Value(); known != nil {
		return known, nil
	}
	made, err := v.make(provider, digest)
	if err != nil {
		return nil, err
	}
	sweep(v.verifiers)
	v.verifiers[digest] = weak.Make(made)
	return made, nil
}

// sweep forgets what is no longer used by anyone.
func sweep[K comparable, T any](held map[K]weak.Pointer[T]) {
	for key, pointer := range held {
		if pointer.Value() == nil {
			delete(held, key)
		}
	}
}

func (v *Verifiers) make(provider *rulesv1.JwtAuthenticator, digest [sha256.Size]byte) (*Verifier, error) {
	made := &Verifier{
		digest: digest, issuer: provider.GetIssuer(), audiences: slices.Clone(provider.GetAudiences()),
		algorithms: slices.Clone(provider.GetAlgorithms()), claims: claims.NewMapping(provider.GetClaims()),
		cache: v.cache, events: v.events,
	}
	var errs []error
	if made.issuer == "" {
		errs = append(errs, errors.New("issuer: is required"))
	}
	if len(made.audiences) == 0 || slices.Contains(made.audiences, "") {
		errs = append(errs, errors.New("audiences: at least one is required, and none may be empty"))
	}
	if len(made.algorithms) == 0 {
		errs = append(errs, errors.New("algorithms: at least one is required"))
	}
	for i, algorithm := range made.algorithms {
		if !jose.Asymmetric(algorithm) {
			errs = append(errs, fmt.Errorf("algorithms[%d]: %q is not an asymmetric signature algorithm (RS, PS or ES with 256, 384 or 512, EdDSA or Ed25519)", i, algorithm))
		}
	}
	for _, name := range provider.GetTypes() {
		made.types = append(made.types, canonicalType(name))
	}
	var err error
	if made.ttl, made.refusalTTL, err = proofs.TTLs(provider.GetCache(), v.ttl); err != nil {
		errs = append(errs, fmt.Errorf("cache.%w", err))
	}
	made.ttl = min(made.ttl, v.ttl)
	if made.leeway, err = proofs.Duration("leeway", provider.GetLeeway(), 0, maxLeeway); err != nil {
		errs = append(errs, err)
	}
	if made.keys, err = v.keys(provider); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return made, nil
}

// canonicalType is a "typ" without case and "application/" (RFC 7515 section
// 4.1.9).
func canonicalType(name string) string {
	return strings.TrimPrefix(strings.ToLower(name), "application/")
}
