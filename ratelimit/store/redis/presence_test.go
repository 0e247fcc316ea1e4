package redis_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/redis"
)

func TestReplicasFindEachOtherAndKeepWhatTheyHeard(t *testing.T) {
	server := redistest.Start(t)
	store, err := redis.New(client(t, server), redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	replicas := make([]*redis.Presence, 3)
	for i := range replicas {
		replicas[i] = redis.NewPresence(store, 1)
		require.Equal(t, ratelimit.Share{Replicas: 1, Rank: 1}, replicas[i].Share(), "before anybody was heard")
	}
	ranks := map[uint32]bool{}
	for range 2 {
		for _, replica := range replicas {
			require.NoError(t, replica.Beat(t.Context()))
		}
	}
	for _, replica := range replicas {
		require.EqualValues(t, 3, replica.Share().Replicas)
		ranks[replica.Share().Rank] = true
	}
	require.Len(t, ranks, 3, "each has a place of its own")

	cautious := redis.NewPresence(store, 9)
	require.NoError(t, cautious.Beat(t.Context()))
	require.EqualValues(t, 9, cautious.Share().Replicas, "no fewer than configured")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	replicas[0].Run(ctx)
	cautious.Run(ctx)
	require.NoError(t, replicas[1].Beat(t.Context()))
	require.EqualValues(t, 2, replicas[1].Share().Replicas, "whoever ends in good order leaves at once")
	server.Kill(t)
	bounded, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	require.Error(t, replicas[1].Beat(bounded))
	require.EqualValues(t, 2, replicas[1].Share().Replicas, "what was last heard stays")
}
