package replay

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// ID names one thing that may be used once, whatever its own length.
type ID [sha256.Size]byte

// NewID hashes the parts, so that no two lists of parts are one.
func NewID(parts ...string) ID {
	hash := sha256.New()
	var length [8]byte
	for _, part := range parts {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		hash.Write(length[:])
		hash.Write([]byte(part))
	}
	return ID(hash.Sum(nil))
}

// Store remembers ids. Implementations are safe for concurrent use.
type Store interface {
	// First remembers an id for at least keep, and reports whether it is seen
	// for the first time. Of several concurrent calls with one id exactly one is
	// told true. An error means that nobody knows, so that the use has to be
	// refused. now is the caller's clock.
	First(ctx context.Context, id ID, now time.Time, keep time.Duration) (bool, error)
}

// ErrFull says that as many ids are remembered as may be. None is forgotten
// before its time to make room: it could be used again.
var ErrFull = errors.New("the memory of used proofs is full")

// DefaultEntries is how many ids a Memory holds unless told otherwise; it then
// takes about 100 MiB at most.
const DefaultEntries = 1 << 20

const (
	shards = 64
	// sweepEvery bounds how often a shard looks for ids to forget.
	sweepEvery = 10 * time.Second
)

// Memory is a Store of this process alone, bounded.
type Memory struct {
	start    time.Time
	perShard int
	shards   [shards]shard
}

type shard struct {
	mu sync.Mutex
	// ends are times since start, by the clock that does not step where the
	// caller's times carry it: a stepped clock must not forget what was used.
	ends  map[ID]time.Duration
	swept time.Duration
}

// NewMemory makes a memory of at most entries ids; zero means DefaultEntries.
func NewMemory(entries int) *Memory {
	if entries <= 0 {
		entries = DefaultEntries
	}
	m := &Memory{start: time.Now(), perShard: max(1, entries/shards)}
	for i := range m.shards {
		m.shards[i].ends = map[ID]time.Duration{}
	}
	return m
}

// First implements Store.
func (m *Memory) First(_ context.Context, id ID, now time.Time, keep time.Duration) (bool, error) {
	since := now.Sub(m.start)
	s := &m.shards[id[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if end, known := s.ends[id]; known && since <= end {
		return false, nil
	}
	if len(s.ends) >= m.perShard || since-s.swept >= sweepEvery {
		s.sweep(since, len(s.ends) >= m.perShard)
	}
	if len(s.ends) >= m.perShard {
		return false, ErrFull
	}
	s.ends[id] = since + keep
	return true, nil
}

// sweep forgets what has ended. A full shard does so at most once a second,
// since a sweep costs as much as the shard is large.
func (s *shard) sweep(since time.Duration, full bool) {
	if full && since-s.swept < time.Second && since >= s.swept {
		return
	}
	s.swept = since
	for id, end := range s.ends {
		if since > end {
			delete(s.ends, id)
		}
	}
}

// Len is the number of ids remembered, those that have ended included.
func (m *Memory) Len() int {
	total := 0
	for i := range m.shards {
		m.shards[i].mu.Lock()
		total += len(m.shards[i].ends)
		m.shards[i].mu.Unlock()
	}
	return total
}
