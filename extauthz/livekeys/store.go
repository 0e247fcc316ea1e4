package livekeys

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/apikey"
)

// DefaultMaxAge is how long keys are gone by after the last sign of life of the
// user service.
const DefaultMaxAge = 24 * time.Hour

// MaxKeys bounds the keys of all tenants together.
const MaxKeys = 2_000_000

const shards = 256

// Events hears what happens, for metrics. Methods are called concurrently and
// must not block.
type Events interface {
	// IssuedKeys is called when the number of keys has changed.
	IssuedKeys(count int)
	// KeyFeed is called when the feed is heard again (nil), and when it is lost.
	KeyFeed(err error)
	// KeysSaved is called after each write of the file.
	KeysSaved(err error)
}

// Options of a Store.
type Options struct {
	// Path is the file that keys are kept in; its folder must exist. Empty keeps
	// none: a restart then knows no key until the service answers.
	Path string
	// MaxAge bounds how long keys are gone by without hearing of the service.
	// Zero means DefaultMaxAge.
	MaxAge time.Duration
	// Events and Logger may be nil.
	Events Events
	Logger *slog.Logger
	// Clock tells the time; nil means time.Now.
	Clock func() time.Time
}

// Store has all issued keys at hand. It implements extauthz.IssuedKeys. Safe for
// concurrent use; only one goroutine may apply batches.
type Store struct {
	options Options
	current atomic.Pointer[table]
	// confirmed is when the service was last heard of, in microseconds; zero for
	// never.
	confirmed atomic.Int64

	mu      sync.Mutex // serialises changes
	file    *file      // nil without a path
	epoch   string
	version int64
	// pending is a reset that is not whole yet.
	pending *table
	saved   time.Time
}

// table is all keys. It is immutable once shared, and so are its shards.
type table struct {
	shards [shards]map[uint64]*entry
	count  int
}

// entry is one key; next chains those whose digests begin alike.
type entry struct {
	digest apikey.Digest
	key    *extauthz.IssuedKey
	next   *entry
}

// Open makes a store from its file, which may be missing. A file that is damaged
// is reported and not used: keys are unknown then until the service answers.
func Open(options Options) (*Store, error) {
	if options.MaxAge == 0 {
		options.MaxAge = DefaultMaxAge
	}
	if options.Events == nil {
		options.Events = noEvents{}
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	s := &Store{options: options}
	s.current.Store(&table{})
	if options.Path == "" {
		return s, nil
	}
	opened, err := openFile(options.Path, s.replay)
	if errors.Is(err, errDamaged) {
		options.Logger.Error("the file of issued API keys is damaged and not used; keys are unknown until the user service answers", "path", options.Path, "error", err)
		options.Events.KeysSaved(err)
		s.forget()
		opened = &file{path: options.Path}
	} else if err != nil {
		return nil, fmt.Errorf("issued API keys: %w", err)
	}
	s.file, s.pending = opened, nil
	options.Events.IssuedKeys(s.Len())
	return s, nil
}

func (s *Store) forget() {
	s.current.Store(&table{})
	s.confirmed.Store(0)
	s.epoch, s.version, s.pending = "", 0, nil
}

type noEvents struct{}

func (noEvents) IssuedKeys(int)  {}
func (noEvents) KeyFeed(error)   {}
func (noEvents) KeysSaved(error) {}

// Len is the number of keys, revoked and expired ones among them.
func (s *Store) Len() int { return s.current.Load().count }

// Resume is the epoch and version to go on from, both empty at first. A reset
// that was begun and not finished is forgotten.
func (s *Store) Resume() (epoch string, version int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = nil
	return s.epoch, s.version
}

// Age is how long ago the service was last heard of; known is false when it
// never was.
func (s *Store) Age(now time.Time) (age time.Duration, known bool) {
	confirmed := s.confirmed.Load()
	if confirmed == 0 {
		return 0, false
	}
	return max(0, now.Sub(time.UnixMicro(confirmed))), true
}

// Find implements extauthz.IssuedKeys.
func (s *Store) Find(digest apikey.Digest, now time.Time) (*extauthz.IssuedKey, bool) {
	found := s.current.Load().find(digest)
	if age, known := s.Age(now); !known || age > s.options.MaxAge {
		// What is revoked stays so, however old the news.
		if found != nil && found.Revoked {
			return found, false
		}
		return nil, false
	}
	return found, true
}

func (t *table) find(digest apikey.Digest) *extauthz.IssuedKey {
	for e := t.shards[digest[0]][prefix(digest)]; e != nil; e = e.next {
		if subtle.ConstantTimeCompare(e.digest[:], digest[:]) == 1 {
			return e.key
		}
	}
	return nil
}

func prefix(digest apikey.Digest) uint64 { return binary.LittleEndian.Uint64(digest[1:]) }

// all calls yield with each key.
func (t *table) all(yield func(apikey.Digest, *extauthz.IssuedKey) bool) {
	for i := range t.shards {
		for _, e := range t.shards[i] {
			for ; e != nil; e = e.next {
				if !yield(e.digest, e.key) {
					return
				}
			}
		}
	}
}

// with is the table with changes made; shards that nothing changes in are
// shared.
func (t *table) with(changes []*keysv1.KeyEntry) (*table, error) {
	changed := &table{shards: t.shards, count: t.count}
	var own [shards]bool
	for _, change := range changes {
		if len(change.GetSha256()) != len(apikey.Digest{}) || change.GetId() == "" {
			return nil, fmt.Errorf("apiKeys/%q of the feed has no id or no SHA-256", change.GetId())
		}
		digest := apikey.Digest(change.GetSha256())
		if i := digest[0]; !own[i] {
			copied := make(map[uint64]*entry, len(changed.shards[i])+1)
			for slot, e := range changed.shards[i] {
				copied[slot] = e
			}
			changed.shards[i], own[i] = copied, true
		}
		if err := changed.put(digest, change); err != nil {
			return nil, err
		}
	}
	if changed.count > MaxKeys {
		return nil, fmt.Errorf("the feed has more than %d keys", MaxKeys)
	}
	return changed, nil
}

// put adds or replaces a key in a shard that nobody else sees.
func (t *table) put(digest apikey.Digest, change *keysv1.KeyEntry) error {
	key := &extauthz.IssuedKey{
		ID: change.GetId(), Tenant: change.GetTenant(), Consumer: change.GetConsumer(), Scopes: change.GetScopes(), Revoked: change.GetRevoked(),
	}
	if expires := change.GetExpireTime(); expires != nil {
		if err := expires.CheckValid(); err != nil {
			return fmt.Errorf("apiKeys/%s of the feed: expire_time: %w", key.ID, err)
		}
		key.Expires = expires.AsTime()
	}
	if !extauthz.ValidScopes(key.Scopes) || !extauthz.ValidHeaderValue("apiKeys/"+key.ID) {
		return fmt.Errorf("apiKeys/%q of the feed: its id or scopes can't be told to services", key.ID)
	}
	slot := prefix(digest)
	shard := t.shards[digest[0]]
	chain := &entry{digest: digest, key: key}
	t.count++
	for e := shard[slot]; e != nil; e = e.next {
		if e.digest == digest {
			key.Inherit(e.key)
			t.count--
			continue
		}
		chain.next = &entry{digest: e.digest, key: e.key, next: chain.next}
	}
	shard[slot] = chain
	return nil
}
