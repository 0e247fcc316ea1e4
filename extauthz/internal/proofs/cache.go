package proofs

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/textsum"
)

// Defaults and bounds of what is remembered.
const (
	defaultBytes = 64 << 20
	// DefaultRefusalTTL is short, since a refusal saves only the work of repeating
	// it.
	DefaultRefusalTTL = 10 * time.Second
	// refusals is small, since anyone can fill it.
	refusals = 10_000
	// entryOverhead is what an entry weighs beside the credential's own size.
	entryOverhead = 512
)

// Key says exactly what was proved: which credential, by which provider's terms,
// with which keys. A change of any of them is another key.
type Key struct {
	Credential, Terms [sha256.Size]byte
	Generation        uint64
}

// Sum is the digest of a credential.
func Sum(credential string) [sha256.Size]byte { return textsum.Sum(credential) }

// Life is how long something is remembered.
type Life struct {
	// Now is the decision's clock, and TTL counts from it.
	Now time.Time
	TTL time.Duration
	// Expires is when the credential itself does; zero means never.
	Expires time.Time
}

type good struct {
	proof  *extauthz.Proof
	life   span
	weight uint32
}

type bad struct {
	err  error
	life span
}

// span is when an entry holds. The credential's own expiry is kept apart from
// the cap on remembering: the cap may be by the monotonic clock, while an expiry
// is by the wall clock, which can be set.
type span struct{ from, until, expires time.Time }

// slack is how far apart the clocks of two decisions at one time may be read.
const slack = 5 * time.Second

func (l Life) span() span {
	return span{from: l.Now.Add(-slack), until: l.Now.Add(l.TTL), expires: l.Expires}
}

func (s *span) holds(now time.Time) bool {
	return !now.Before(s.from) && now.Before(s.until) && (s.expires.IsZero() || now.Before(s.expires))
}

// Cache remembers proofs, and separately a few refusals, so that wrong
// credentials never push good ones out. It holds digests of credentials, never
// the credentials. Expiry is judged by the caller's clock; when that is set back,
// what was remembered later than it says is forgotten. Safe for concurrent use.
type Cache struct {
	good *otter.Cache[Key, good]
	bad  *otter.Cache[Key, bad]
}

// New makes a cache bounded by its approximate size; zero means 64 MiB.
func New(bytes uint64) (*Cache, error) {
	if bytes == 0 {
		bytes = defaultBytes
	}
	made, err := otter.New(&otter.Options[Key, good]{
		MaximumWeight: bytes,
		Weigher:       func(_ Key, value good) uint32 { return value.weight },
	})
	if err != nil {
		return nil, fmt.Errorf("cache of proofs: %w", err)
	}
	refused, err := otter.New(&otter.Options[Key, bad]{MaximumSize: refusals})
	if err != nil {
		return nil, fmt.Errorf("cache of refusals: %w", err)
	}
	return &Cache{good: made, bad: refused}, nil
}

// Find returns what is remembered: a proof, a refusal, or two nils.
func (c *Cache) Find(key *Key, now time.Time) (*extauthz.Proof, error) {
	if entry, ok := c.good.GetIfPresent(*key); ok && entry.life.holds(now) {
		return entry.proof, nil
	}
	if entry, ok := c.bad.GetIfPresent(*key); ok && entry.life.holds(now) {
		return nil, entry.err
	}
	return nil, nil
}

// Keep remembers a proof whose claims, as text, had size bytes.
func (c *Cache) Keep(key *Key, proof *extauthz.Proof, size int, life Life) {
	if life.TTL <= 0 || !life.Expires.IsZero() && !life.Now.Before(life.Expires) {
		return
	}
	// Decoded claims take several times the room of their text.
	c.good.Set(*key, good{proof: proof, life: life.span(), weight: uint32(entryOverhead + 8*size)}) //nolint:gosec // sizes are bounded far below
}

// Refuse remembers a credential that cannot become good while the refusal is
// remembered.
func (c *Cache) Refuse(key *Key, err error, life Life) {
	if life.TTL > 0 {
		c.bad.Set(*key, bad{err: err, life: life.span()})
	}
}

// Len is about how many proofs and refusals are remembered.
func (c *Cache) Len() (kept, refused int) { return c.good.EstimatedSize(), c.bad.EstimatedSize() }
