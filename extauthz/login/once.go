package login

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/singleflight"
)

// Timing of work that is done once.
const (
	// lockFor is longer than any work under the lock may take (maxTimeout twice,
	// for tokens and userinfo), and how long a process that died holds others up.
	lockFor = 25 * time.Second
	// lookAgain is how often a process asks whether another one is done.
	lookAgain = 25 * time.Millisecond
)

// once does a piece of work once for all who ask for it at about the same time,
// in this process and in all that share the store.
type once struct {
	store  Store
	flight singleflight.Group
}

// do returns what work returned, here or elsewhere, within the last keep. It
// returns when ctx ends; the work goes on without it, within its own bounds, so
// that whoever asks next finds it done. Errors of work are not kept.
func (o *once) do(ctx context.Context, key string, keep time.Duration, work func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	done := o.flight.DoChan(key, func() (any, error) {
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockFor)
		defer cancel()
		return o.locked(own, key, keep, work)
	})
	select {
	case result := <-done:
		raw, _ := result.Val.([]byte)
		return raw, result.Err
	case <-ctx.Done():
		return nil, errNotYet
	}
}

var errNotYet = errors.New("not done in time; it goes on")

func (o *once) locked(ctx context.Context, key string, keep time.Duration, work func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	lock := key + ":lock"
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		if known, err := o.store.Get(ctx, key); known != nil || err != nil {
			return known, err
		}
		ours, err := o.store.Add(ctx, lock, unique(), lockFor)
		if err != nil {
			return nil, err
		}
		if ours {
			return o.work(ctx, key, lock, keep, work)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, errNotYet
		}
	}
}

func (o *once) work(ctx context.Context, key, lock string, keep time.Duration, work func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	defer func() { _ = o.store.Delete(context.WithoutCancel(ctx), lock) }() // it ends by itself otherwise
	// Another one may have finished between our look and our lock.
	if known, err := o.store.Get(ctx, key); known != nil || err != nil {
		return known, err
	}
	result, err := work(ctx)
	if err != nil {
		return nil, err
	}
	return result, o.store.Put(ctx, key, result, keep)
}
