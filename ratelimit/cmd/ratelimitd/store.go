package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"weir.dev/kit/config"
	"weir.dev/ratelimit"
	"weir.dev/ratelimit/metrics"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/lease"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/store/redis"
)

// localKeys bounds the counters that a replica keeps while Redis is gone.
const localKeys = 100_000

// stores are where counters are kept: in memory, or in Redis with what stands
// around it.
type stores struct {
	limits ratelimit.Store
	local  *ratelimit.Local // nil in memory
	ping   func(context.Context) error
	// background runs until its context ends; nil if there is nothing to run.
	background func(context.Context)
	close      func() error
}

func openStores(s *server) (*stores, error) {
	cfg := &s.config.Store
	if cfg.Redis.URL == "" {
		store, err := memory.New(memory.Options{MaxKeys: cfg.Memory.MaxKeys})
		if err != nil {
			return nil, err
		}
		return &stores{limits: store, close: func() error { return nil }}, metrics.WatchKeys(s.runtime.Registry, store.Len, store.EvictedLive)
	}
	if err := cfg.Redis.Validate(); err != nil { // the environment may have changed it
		return nil, config.Prefix("store.redis.", err)
	}
	client, err := cfg.Redis.NewClient(cfg.Timeout.Std())
	if err != nil {
		return nil, err
	}
	store, err := redis.New(client, redis.Options{
		Prefix: cfg.Redis.KeyPrefix, Groups: cfg.Redis.Groups, WaitReplicas: cfg.Redis.WaitReplicas, WaitTimeout: cfg.Redis.WaitTimeout.Std(),
	})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	local, err := memory.New(memory.Options{MaxKeys: localKeys})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	leases, err := metrics.NewLeases(s.runtime.Registry)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	presence := redis.NewPresence(store, cfg.Replicas)
	guarded := guard.New(store, guard.Options{Timeout: cfg.Timeout.Std(), MaxInFlight: cfg.MaxInFlight, Observer: s.metrics})
	leasing := lease.New(guarded, lease.Options{Timeout: time.Second, Observer: leases})
	return &stores{
		limits: leasing, local: &ratelimit.Local{Store: local, Share: presence.Share}, ping: store.Ping, close: client.Close,
		background: func(ctx context.Context) {
			var group sync.WaitGroup
			group.Go(func() { presence.Run(ctx) })
			group.Go(func() { leasing.Run(ctx) })
			group.Go(func() { store.Forgotten(ctx, leasing.Drop) })
			group.Wait()
		},
	}, nil
}
