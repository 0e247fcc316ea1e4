package token

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"

	"weir.dev/extauthz"
)

// Defaults and bounds of what is remembered.
const (
	defaultCacheBytes = 64 << 20
	defaultCacheTTL   = 5 * time.Minute
	// negativeTTL is short, since a refusal saves only the work of repeating it.
	negativeTTL = 10 * time.Second
	// negativeEntries is small, since anyone can fill it.
	negativeEntries = 10_000
	// entryOverhead is what an entry weighs beside the token's own size.
	entryOverhead = 512
)

// cacheKey says exactly what was verified: which token, by which provider's
// terms, with which keys. A change of any of them is another key.
type cacheKey struct {
	token      [sha256.Size]byte
	provider   [sha256.Size]byte
	generation uint64
}

type positive struct {
	token   *extauthz.Proof
	expires time.Time
	weight  uint32
}

type negative struct {
	err     error
	expires time.Time
}

// cache remembers verified tokens, and separately a few that were wrong, so
// that wrong ones never push good ones out. Expiry is judged by the caller's
// clock. Safe for concurrent use.
type cache struct {
	good *otter.Cache[cacheKey, positive]
	bad  *otter.Cache[cacheKey, negative]
	ttl  time.Duration
}

func newCache(bytes uint64, ttl time.Duration) (*cache, error) {
	if bytes == 0 {
		bytes = defaultCacheBytes
	}
	if ttl == 0 {
		ttl = defaultCacheTTL
	}
	good, err := otter.New(&otter.Options[cacheKey, positive]{
		MaximumWeight: bytes,
		Weigher:       func(_ cacheKey, value positive) uint32 { return value.weight },
	})
	if err != nil {
		return nil, fmt.Errorf("token cache: %w", err)
	}
	bad, err := otter.New(&otter.Options[cacheKey, negative]{MaximumSize: negativeEntries})
	if err != nil {
		return nil, fmt.Errorf("negative token cache: %w", err)
	}
	return &cache{good: good, bad: bad, ttl: ttl}, nil
}

// find returns what is remembered, or two nils.
func (c *cache) find(key cacheKey, now time.Time) (*extauthz.Proof, error) {
	if entry, ok := c.good.GetIfPresent(key); ok && now.Before(entry.expires) {
		return entry.token, nil
	}
	if entry, ok := c.bad.GetIfPresent(key); ok && now.Before(entry.expires) {
		return nil, entry.err
	}
	return nil, nil
}

// keep remembers a verified token of size bytes that expires at expires.
func (c *cache) keep(key cacheKey, token *extauthz.Proof, size int, now, expires time.Time) {
	if limit := now.Add(c.ttl); limit.Before(expires) {
		expires = limit
	}
	if !now.Before(expires) {
		return
	}
	// Decoded claims take several times the room of their text.
	c.good.Set(key, positive{token: token, expires: expires, weight: uint32(entryOverhead + 8*size)})
}

// keepRefusal remembers a token that cannot become good.
func (c *cache) keepRefusal(key cacheKey, err error, now time.Time) {
	c.bad.Set(key, negative{err: err, expires: now.Add(negativeTTL)})
}
