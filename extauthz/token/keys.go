package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"weir.dev/extauthz/jose"
)

// keySource gives the keys to verify with. Implementations are safe for
// concurrent use.
type keySource interface {
	// current returns the keys in effect at now and their generation, which
	// changes whenever the keys do and is never reused within a process. An
	// error means that there are none to be trusted.
	current(ctx context.Context, now time.Time) (*keys, uint64, error)
	// refresh is current after a new look at the source, when one is due: it is
	// called for a key id that the set does not have.
	refresh(ctx context.Context, now time.Time) (*keys, uint64, error)
}

// inlineKeys never change.
type inlineKeys struct {
	set        *keys
	generation uint64
}

func (k *inlineKeys) current(context.Context, time.Time) (*keys, uint64, error) {
	return k.set, k.generation, nil
}

func (k *inlineKeys) refresh(context.Context, time.Time) (*keys, uint64, error) {
	return k.set, k.generation, nil
}

// keys are a key set, and what its source says about the algorithms.
type keys struct {
	*jose.KeySet
	// algorithms are the only ones that the source uses; nil when it does not say.
	algorithms []string
}

// find is KeySet.Find within the algorithms.
func (k *keys) find(id, algorithm string) (key *jose.Key, known bool) {
	key, known = k.Find(id, algorithm)
	if k.algorithms != nil && !slices.Contains(k.algorithms, algorithm) {
		return nil, known
	}
	return key, known
}

// fetcher gets a document, at most limit bytes of it, within ctx.
type fetcher interface {
	fetch(ctx context.Context, uri string, limit int64) ([]byte, error)
}

// remoteKeys are fetched when first needed and again when their freshness ends.
// While the source fails, the last good set is used until maxStale is over, and
// after that there are no keys.
type remoteKeys struct {
	uri      string
	fresh    time.Duration
	maxStale time.Duration
	timeout  time.Duration
	// cooldown is the least time between two fetches that key ids unknown to
	// the set ask for, and retry between two fetches when the first failed.
	cooldown, retry time.Duration

	fetcher fetcher
	// issuer is set when uri is that of the issuer's discovery document.
	issuer     string
	generation func() uint64
	observe    func(err error)
	flight     singleflight.Group
	state      atomic.Pointer[remoteState]
	behind     atomic.Bool // a fetch runs that nobody waits for
}

// remoteState is immutable.
type remoteState struct {
	set        *keys
	generation uint64
	digest     [sha256.Size]byte
	fetched    time.Time // of the last good fetch
	attempted  time.Time // of the last fetch, good or bad
	err        error     // of the last fetch
}

// aheadOfExpiry is the share of the freshness after which use starts a fetch in
// the background, so that no request has to wait for one.
const aheadOfExpiry = 0.8

func (k *remoteKeys) current(ctx context.Context, now time.Time) (*keys, uint64, error) {
	state := k.state.Load()
	if state == nil {
		return k.usable(k.fetchNow(ctx, now, nil), now)
	}
	age := now.Sub(state.fetched)
	failing := state.err != nil
	due := !failing || over(now.Sub(state.attempted), k.retry)
	switch {
	case state.set != nil && age < k.fresh:
		// When the clock was set back, it says nothing about the age.
		if due && (age < setBack || float64(age) >= aheadOfExpiry*float64(k.fresh)) {
			k.fetchBehind(ctx, now, state)
		}
	case state.set != nil && failing && age < k.fresh+k.maxStale:
		// The source has just failed: asking it again must not hold requests up.
		if due {
			k.fetchBehind(ctx, now, state)
		}
	case due:
		state = k.fetchNow(ctx, now, state)
	}
	return k.usable(state, now)
}

// setBack is how far before its beginning a wait must seem to be for the clock to
// have been set back. A fetch ends after the time of the decision that began it.
const setBack = -time.Minute

// over reports whether a wait has ended. One that has not begun yet, since the
// clock was set back, has.
func over(waited, wait time.Duration) bool { return waited < setBack || waited >= wait }

func (k *remoteKeys) refresh(ctx context.Context, now time.Time) (*keys, uint64, error) {
	state := k.state.Load()
	if state == nil || over(now.Sub(state.attempted), k.cooldown) {
		state = k.fetchNow(ctx, now, state)
	}
	set, generation, err := k.usable(state, now)
	if err == nil && state.err != nil {
		// The key may exist by now, and it cannot be known whether it does.
		return set, generation, fmt.Errorf("the key set could not be refreshed: %w", state.err)
	}
	return set, generation, err
}

// fetchBehind fetches without anyone waiting, one at a time.
func (k *remoteKeys) fetchBehind(ctx context.Context, now time.Time, seen *remoteState) {
	if !k.behind.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer k.behind.Store(false)
		k.fetchNow(context.WithoutCancel(ctx), now, seen)
	}()
}

// usable applies the bound on staleness. A nil state means that the caller's
// time ended before the first fetch did.
func (k *remoteKeys) usable(state *remoteState, now time.Time) (*keys, uint64, error) {
	switch {
	case state == nil:
		return nil, 0, fmt.Errorf("key set %s: not fetched in time", k.uri)
	case state.set == nil:
		return nil, 0, fmt.Errorf("key set %s: %w", k.uri, state.err)
	case now.Sub(state.fetched) >= k.fresh+k.maxStale:
		return nil, 0, fmt.Errorf("key set %s: unusable since its staleness bound: %w", k.uri, errors.Join(state.err, errStale))
	}
	return state.set, state.generation, nil
}

var errStale = errors.New("the last good set is too old")

// fetchNow fetches once for all who ask at the same time, under its own
// deadline, so that one caller's end does not fail the others. It returns the
// state afterwards, or the one before when ctx ends first. seen is the state
// that made the caller ask: when another has taken its place, that one is the
// answer.
func (k *remoteKeys) fetchNow(ctx context.Context, now time.Time, seen *remoteState) *remoteState {
	done := k.flight.DoChan("", func() (any, error) {
		if newer := k.state.Load(); newer != seen {
			return newer, nil
		}
		started := time.Now()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.timeout)
		defer cancel()
		document, err := k.fetchKeys(limited)
		return k.store(document, err, now, now.Add(time.Since(started))), nil
	})
	select {
	case result := <-done:
		state, _ := result.Val.(*remoteState)
		return state
	case <-ctx.Done():
		return k.state.Load()
	}
}

// document is a fetched key set that is not read yet.
type document struct {
	raw        []byte
	algorithms []string
}

// fetchKeys makes a panic an error: nobody above it would catch it.
func (k *remoteKeys) fetchKeys(ctx context.Context) (fetched document, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			fetched, err = document{}, fmt.Errorf("panic: %v", cause)
		}
	}()
	uri := k.uri
	if k.issuer != "" {
		raw, err := k.fetcher.fetch(ctx, uri, maxDiscoveryBytes)
		if err != nil {
			return fetched, fmt.Errorf("discovery document: %w", err)
		}
		if uri, fetched.algorithms, err = readDiscovery(raw, k.issuer); err != nil {
			return fetched, fmt.Errorf("discovery document: %w", err)
		}
	}
	fetched.raw, err = k.fetcher.fetch(ctx, uri, jose.MaxKeySetBytes)
	return fetched, err
}

// digest tells documents apart.
func (d *document) digest() [sha256.Size]byte {
	hash := sha256.New()
	for _, algorithm := range d.algorithms {
		hash.Write([]byte(algorithm + "\n"))
	}
	hash.Write([]byte("\n"))
	hash.Write(d.raw)
	return [sha256.Size]byte(hash.Sum(nil))
}

// store makes the state that follows a fetch; fetches never overlap.
func (k *remoteKeys) store(fetched document, err error, started, ended time.Time) *remoteState {
	next := &remoteState{attempted: ended}
	if old := k.state.Load(); old != nil {
		next.set, next.generation, next.digest, next.fetched = old.set, old.generation, old.digest, old.fetched
	}
	var set *jose.KeySet
	if err == nil {
		set, err = jose.ParseKeySet(fetched.raw)
	}
	k.observe(err)
	if next.err = err; err == nil {
		next.fetched = started
		if digest := fetched.digest(); next.set == nil || digest != next.digest {
			next.set, next.digest = &keys{KeySet: set, algorithms: fetched.algorithms}, digest
			next.generation = k.generation()
		}
	}
	k.state.Store(next)
	return next
}
