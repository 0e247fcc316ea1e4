// Package storetest is what every login.Store has to pass.
package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/login"
)

// Run checks a Store. pass lets time go by for it.
func Run(t *testing.T, store login.Store, pass func(time.Duration)) {
	t.Run("values", func(t *testing.T) { values(t, store, pass) })
	t.Run("conditions", func(t *testing.T) { conditions(t, store, pass) })
	t.Run("lists", func(t *testing.T) { lists(t, store, pass) })
	t.Run("of many, one adds", func(t *testing.T) { race(t, store) })
}

func values(t *testing.T, store login.Store, pass func(time.Duration)) {
	ctx := t.Context()
	value, err := store.Get(ctx, "absent")
	require.NoError(t, err)
	require.Nil(t, value)
	require.NoError(t, store.Put(ctx, "a", []byte("1"), time.Minute))
	require.NoError(t, store.Put(ctx, "b", []byte{0, 255}, time.Minute))
	require.NoError(t, store.Put(ctx, "a", []byte("2"), time.Second))
	value, err = store.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, []byte("2"), value)
	pass(2 * time.Second)
	value, err = store.Get(ctx, "a")
	require.NoError(t, err)
	require.Nil(t, value, "its time is over")
	value, err = store.Get(ctx, "b")
	require.NoError(t, err)
	require.Equal(t, []byte{0, 255}, value)
	require.NoError(t, store.Delete(ctx, "b", "absent"))
	value, err = store.Get(ctx, "b")
	require.NoError(t, err)
	require.Nil(t, value)
}

func conditions(t *testing.T, store login.Store, pass func(time.Duration)) {
	ctx := t.Context()
	done, err := store.Replace(ctx, "c", []byte("0"), time.Minute)
	require.NoError(t, err)
	require.False(t, done, "there is nothing to replace")
	done, err = store.Add(ctx, "c", []byte("1"), time.Second)
	require.NoError(t, err)
	require.True(t, done)
	done, err = store.Add(ctx, "c", []byte("2"), time.Minute)
	require.NoError(t, err)
	require.False(t, done, "it is taken")
	done, err = store.Replace(ctx, "c", []byte("3"), time.Second)
	require.NoError(t, err)
	require.True(t, done)
	value, err := store.Get(ctx, "c")
	require.NoError(t, err)
	require.Equal(t, []byte("3"), value)
	pass(2 * time.Second)
	done, err = store.Replace(ctx, "c", []byte("4"), time.Minute)
	require.NoError(t, err)
	require.False(t, done, "its time is over")
	done, err = store.Add(ctx, "c", []byte("5"), time.Minute)
	require.NoError(t, err)
	require.True(t, done)
}

func lists(t *testing.T, store login.Store, pass func(time.Duration)) {
	ctx := t.Context()
	for _, member := range []string{"x", "y", "x", "z"} {
		dropped, err := store.Append(ctx, "list", member, 3, time.Minute)
		require.NoError(t, err)
		require.Empty(t, dropped)
	}
	members, err := store.Members(ctx, "list")
	require.NoError(t, err)
	require.Equal(t, []string{"y", "x", "z"}, members, "each once, the newest last")
	dropped, err := store.Append(ctx, "list", "w", 2, time.Second)
	require.NoError(t, err)
	require.Equal(t, []string{"y", "x"}, dropped, "the oldest")
	pass(2 * time.Second)
	members, err = store.Members(ctx, "list")
	require.NoError(t, err)
	require.Empty(t, members)
	_, err = store.Append(ctx, "list", "v", 2, time.Minute)
	require.NoError(t, err)
	require.NoError(t, store.Delete(ctx, "list"))
	members, err = store.Members(ctx, "list")
	require.NoError(t, err)
	require.Empty(t, members)
}

func race(t *testing.T, store login.Store) {
	var group sync.WaitGroup
	var won atomic.Int32
	errs := make(chan error, 32)
	for i := range 32 {
		group.Go(func() {
			done, err := store.Add(t.Context(), "race", fmt.Append(nil, i), time.Minute)
			if done {
				won.Add(1)
			}
			errs <- err
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, won.Load())
}
