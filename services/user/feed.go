package user

import (
	"context"
	"sync"
	"time"
)

// FeedBatch bounds the keys of one batch.
const FeedBatch = 1000

// feedPoll is how often the feed looks for changes that another process made;
// its own it hears of at once.
const feedPoll = 200 * time.Millisecond

// feedIdle is how often a watcher gets a sign of life.
const feedIdle = 2 * time.Second

// KeyBatch is what a watcher is sent.
type KeyBatch struct {
	Epoch   string
	Version int64
	// Reset starts the whole set anew; More says that it isn't whole yet.
	Reset, More bool
	Keys        []APIKey
}

// KeyFeed tells watchers of the changes of all tenants' keys. Safe for
// concurrent use.
type KeyFeed struct {
	store KeyFeedStore

	mu     sync.Mutex
	waking chan struct{} // closed at the next change of this process
}

// NewKeyFeed makes a feed.
func NewKeyFeed(store KeyFeedStore) *KeyFeed {
	return &KeyFeed{store: store, waking: make(chan struct{})}
}

// Changed wakes the watchers: a change has been committed.
func (f *KeyFeed) Changed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.waking)
	f.waking = make(chan struct{})
}

func (f *KeyFeed) wake() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waking
}

// Watch sends everything after a version of an epoch, and then each change. A
// version that can't be gone on from starts anew. It ends with ctx or the first
// error of the store or of send.
func (f *KeyFeed) Watch(ctx context.Context, epoch string, version int64, send func(KeyBatch) error) error {
	position, err := f.store.FeedPosition(ctx)
	if err != nil {
		return err
	}
	reset := epoch != position.Epoch || version > position.Version || version < position.Purged || version < 0
	if reset {
		version = 0
	}
	poll := time.NewTicker(feedPoll)
	defer poll.Stop()
	last := time.Time{}
	for {
		// Taken before looking, so that no change slips in between.
		waking := f.wake()
		sent, err := f.catchUp(ctx, position.Epoch, &version, reset, send)
		if err != nil {
			return err
		}
		switch now := time.Now(); {
		case sent:
			last = now
		case reset, now.Sub(last) >= feedIdle:
			if err := send(KeyBatch{Epoch: position.Epoch, Version: version, Reset: reset}); err != nil {
				return err
			}
			last = now
		}
		reset = false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-waking:
		case <-poll.C:
		}
	}
}

// catchUp sends what has changed since *version, and moves it.
func (f *KeyFeed) catchUp(ctx context.Context, epoch string, version *int64, reset bool, send func(KeyBatch) error) (sent bool, err error) {
	for {
		keys, err := f.store.ChangedAPIKeys(ctx, *version, FeedBatch)
		if err != nil {
			return sent, err
		}
		if len(keys) == 0 && !sent {
			return false, nil
		}
		if len(keys) > 0 {
			*version = keys[len(keys)-1].Change
		}
		more := len(keys) == FeedBatch
		if err := send(KeyBatch{Epoch: epoch, Version: *version, Reset: reset && !sent, More: more, Keys: keys}); err != nil {
			return sent, err
		}
		if sent = true; !more {
			return true, nil
		}
	}
}

// Used notes when keys were last accepted.
func (f *KeyFeed) Used(ctx context.Context, uses map[string]time.Time) error {
	return f.store.UseAPIKeys(ctx, uses)
}

// Purge forgets keys that have been refused for good for KeptRefused.
func (f *KeyFeed) Purge(ctx context.Context) error {
	return f.store.PurgeAPIKeys(ctx, time.Now().Add(-KeptRefused))
}
