package login

import (
	"crypto/sha256"
	"fmt"

	"github.com/maypok86/otter/v2"
)

// Bounds of what is remembered of one login's sessions.
const (
	proofBytes    = 32 << 20
	proofOverhead = 512
)

// proofCache remembers sessions that were opened, by the hash of what was
// sealed. Whether one is still good is asked each time. Safe for concurrent use.
type proofCache struct {
	known *otter.Cache[[sha256.Size]byte, weighed]
}

type weighed struct {
	*opened
	weight uint32
}

func newProofCache() (*proofCache, error) {
	known, err := otter.New(&otter.Options[[sha256.Size]byte, weighed]{
		MaximumWeight: proofBytes,
		Weigher:       func(_ [sha256.Size]byte, value weighed) uint32 { return value.weight },
	})
	if err != nil {
		return nil, fmt.Errorf("session cache: %w", err)
	}
	return &proofCache{known}, nil
}

func (c *proofCache) find(key [sha256.Size]byte) *opened {
	found, _ := c.known.GetIfPresent(key)
	return found.opened
}

// keep remembers a session whose text has size bytes; decoded claims take
// several times that.
func (c *proofCache) keep(key [sha256.Size]byte, made *opened, size int) {
	c.known.Set(key, weighed{made, uint32(proofOverhead + 8*min(size, 1<<20))}) //nolint:gosec // bounded
}
