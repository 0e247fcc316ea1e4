package storetest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"weir.dev/services/internal/query"
	"weir.dev/services/user"
)

func apiKey(tenant, id string) user.APIKey {
	return user.APIKey{
		Version: version(tenant), ID: id, DisplayName: "Key " + id, Consumer: "default/shop", Scopes: []string{"read", "write"},
		SHA256: [32]byte{1, 2, byte(len(id))}, Lifetime: time.Hour, ExpireTime: version(tenant).CreateTime.Add(time.Hour),
	}
}

func changes(t *testing.T, store user.Store, after int64) (ids []string) {
	t.Helper()
	keys, err := store.ChangedAPIKeys(t.Context(), after, 1000)
	require.NoError(t, err)
	for i, key := range keys {
		require.Greater(t, key.Change, after)
		require.True(t, i == 0 || key.Change > keys[i-1].Change)
		ids = append(ids, key.ID)
	}
	return ids
}

func apiKeys(t *testing.T, store user.Store) {
	ctx := t.Context()
	first := apiKey("acme", "first")
	require.NoError(t, store.CreateAPIKey(ctx, first))
	require.NoError(t, store.CreateAPIKey(ctx, apiKey("beta", "second")))
	require.Error(t, store.CreateAPIKey(ctx, apiKey("beta", "first")), "ids are unique among all tenants")
	got, err := store.GetAPIKey(ctx, "acme", "first")
	require.NoError(t, err)
	first.Change = got.Change
	require.Equal(t, first, got)
	_, err = store.GetAPIKey(ctx, "beta", "first")
	requireCode(t, err, codes.NotFound, "API_KEY_NOT_FOUND")
	rows, next, err := store.ListAPIKeys(ctx, "acme", query.List{Limit: 10})
	require.NoError(t, err)
	require.Nil(t, next)
	require.Len(t, rows, 1)
	require.Equal(t, []string{"first", "second"}, changes(t, store, 0))

	used := first.CreateTime.Add(time.Minute)
	require.NoError(t, store.UseAPIKeys(ctx, map[string]time.Time{"first": used, "nobody": used}))
	require.NoError(t, store.UseAPIKeys(ctx, map[string]time.Time{"first": used.Add(-time.Second)}))
	before, err := store.FeedPosition(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, before.Epoch)

	first.RevokeTime, first.Revision, first.ReplacedBy = used, 2, "third"
	third := apiKey("acme", "third")
	require.NoError(t, store.UpdateAPIKey(ctx, first, &third))
	require.ErrorIs(t, store.UpdateAPIKey(ctx, first, nil), user.ErrStale)
	require.Equal(t, []string{"second", "first", "third"}, changes(t, store, 0))
	require.Equal(t, []string{"first", "third"}, changes(t, store, before.Version))
	got, err = store.GetAPIKey(ctx, "acme", "first")
	require.NoError(t, err)
	require.Equal(t, used, got.LastUseTime, "an update leaves it")
	require.Equal(t, user.KeyRevoked, got.State(used))

	// What goes is refused before and after: forgetting is no change.
	require.NoError(t, store.PurgeAPIKeys(ctx, used))
	require.Len(t, changes(t, store, 0), 3, "not yet")
	require.NoError(t, store.PurgeAPIKeys(ctx, used.Add(time.Microsecond)))
	require.Equal(t, []string{"second", "third"}, changes(t, store, 0))
	after, err := store.FeedPosition(ctx)
	require.NoError(t, err)
	require.Equal(t, got.Change, after.Purged)
	require.Equal(t, before.Epoch, after.Epoch)
}

// Whoever has seen a version has seen all below it, however many write at once.
func concurrentKeys(t *testing.T, store user.Store) {
	const writers, each = 6, 10
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				if err := store.CreateAPIKey(t.Context(), apiKey("acme", fmt.Sprintf("key-%d-%d", w, i))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	seen, version := map[string]bool{}, int64(0)
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for last := false; !last; {
		select {
		case <-done:
			last = true
		default:
		}
		keys, err := store.ChangedAPIKeys(t.Context(), version, 7)
		require.NoError(t, err)
		for _, key := range keys {
			seen[key.ID], version = true, key.Change
		}
		last = last && len(keys) < 7
	}
	require.Len(t, seen, writers*each)
}
