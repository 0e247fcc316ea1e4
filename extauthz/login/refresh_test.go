package login_test

import (
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/login"
	"weir.dev/extauthz/login/storetest"
)

// together sends requests with the same cookies at once, over the replicas in
// turn.
func together(w *world, b *browser, n int, replicas ...*replica) []extauthz.Decision {
	decisions := make([]extauthz.Decision, n)
	requests := make([]*extauthz.Request, n)
	for i := range requests {
		requests[i] = b.request("GET", "/", "")
	}
	var group sync.WaitGroup
	for i := range requests {
		group.Go(func() { decisions[i] = replicas[i%len(replicas)].decide(requests[i]) })
	}
	group.Wait()
	for i := range decisions {
		b.take(&decisions[i])
	}
	return decisions
}

func TestRefreshRace(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		before := maps.Clone(b.cookies)
		for round := range 3 {
			w.clock.pass(5 * time.Minute)
			for _, decision := range together(w, b, 24, w.replica) {
				require.True(t, decision.Allowed, "round %d: %s %v", round, decision.Reason, decision.Cause)
			}
			require.EqualValues(t, round+1, w.op.renewals.Load(), "one refresh")
			require.True(t, b.fetch("/").Allowed)
			// A request that was long under way comes with what was before. The provider
			// would end the session if it saw that refresh token again.
			w.clock.pass(time.Minute)
			late := w.browser()
			late.cookies = maps.Clone(before)
			require.True(t, late.fetch("/").Allowed)
			require.EqualValues(t, round+1, w.op.renewals.Load(), "and none after it")
			before = maps.Clone(b.cookies)
		}
	})
}

func TestRefreshOverReplicas(t *testing.T) {
	for _, store := range []rulesv1.LoginSession_Store{rulesv1.LoginSession_STORE_COOKIE, rulesv1.LoginSession_STORE_REDIS} {
		t.Run(store.String(), func(t *testing.T) {
			w := newWorld(t, store)
			w.redis = login.NewMemory(1000, w.clock.now, nil) // shared, also by sessions in cookies
			w.replica = w.newReplica()
			second, third := w.newReplica(), w.newReplica()
			b := w.browser()
			b.login("/", "alice")
			for round := range 3 {
				w.clock.pass(5 * time.Minute)
				for _, decision := range together(w, b, 24, w.replica, second, third) {
					require.True(t, decision.Allowed, "%s %v", decision.Reason, decision.Cause)
				}
				require.EqualValues(t, round+1, w.op.renewals.Load(), "one refresh over all replicas")
			}
		})
	}
}

func TestRefreshWithoutSharingIsWhyItIsShared(t *testing.T) {
	// The control of TestRefreshOverReplicas: without anything shared, a provider
	// that rotates refresh tokens sees one twice.
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	second := w.newReplica()
	b := w.browser()
	b.login("/", "alice")
	w.clock.pass(5 * time.Minute)
	together(w, b, 24, w.replica, second)
	require.EqualValues(t, 2, w.op.renewals.Load())
}

func TestRefreshAhead(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		w.clock.pass(269 * time.Second)
		require.True(t, b.fetch("/").Allowed)
		require.Zero(t, w.op.renewals.Load(), "too early")
		w.clock.pass(2 * time.Second)

		w.op.down.Store(true)
		require.True(t, b.fetch("/").Allowed, "what the provider said still holds")
		require.True(t, b.fetch("/").Allowed)
		w.op.down.Store(false)
		require.True(t, b.fetch("/").Allowed)
		require.Zero(t, w.op.renewals.Load(), "it is left alone for a moment")
		w.clock.pass(2 * time.Second)
		require.True(t, b.fetch("/").Allowed)
		require.EqualValues(t, 1, w.op.renewals.Load())

		w.op.down.Store(true)
		w.clock.pass(5 * time.Minute)
		decision := b.fetch("/")
		require.Equal(t, extauthz.ReasonProviderUnavailable, decision.Reason, "past that nobody vouches for the session")
		decision = b.fetch("/")
		require.Equal(t, extauthz.ReasonProviderUnavailable, decision.Reason)
		require.NotEmpty(t, b.cookies, "but it is not lost")
		w.op.down.Store(false)
		w.clock.pass(2 * time.Second)
		require.True(t, b.fetch("/").Allowed)
	})
}

func TestSlowRefresh(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		hold := make(chan struct{})
		w.op.mu.Lock()
		w.op.hold = hold
		w.op.mu.Unlock()
		w.clock.pass(280 * time.Second)
		require.True(t, b.fetch("/").Allowed, "nobody waits long for what can wait")
		close(hold)
		w.clock.pass(25 * time.Second)
		require.Eventually(t, func() bool { return b.fetch("/").Allowed }, time.Minute, time.Millisecond)
		require.EqualValues(t, 1, w.op.renewals.Load(), "what went on in the meantime is taken up")
	})
}

func TestRefreshRefused(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		w.op.mu.Lock()
		clear(w.op.refresh) // the provider ended the grant
		w.op.mu.Unlock()
		w.clock.pass(5 * time.Minute)
		decision := b.fetch("/")
		require.Equal(t, extauthz.ReasonSessionExpired, decision.Reason, "%v", decision.Cause)
		require.ErrorContains(t, decision.Cause, "invalid_grant")
		for range 5 {
			require.False(t, b.fetch("/").Allowed)
		}
		require.EqualValues(t, 1, w.op.renewals.Load(), "the answer is remembered")
		require.Equal(t, extauthz.ReasonLoginRequired, b.visit("/").Reason)
		b.login("/", "alice")
		require.True(t, b.fetch("/").Allowed)
	})
}

func TestRefreshOfAnotherPerson(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		b := w.browser()
		b.login("/", "alice")
		w.op.claims = func(c map[string]any) { c["sub"] = "mallory" }
		w.clock.pass(5 * time.Minute)
		decision := b.fetch("/")
		require.Equal(t, extauthz.ReasonSessionExpired, decision.Reason)
		require.ErrorContains(t, decision.Cause, "another person")
	})
}

func TestWithoutRefreshToken(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.op.noRefresh = true
		b := w.browser()
		b.login("/", "alice")
		w.clock.pass(299 * time.Second)
		require.True(t, b.fetch("/").Allowed)
		w.clock.pass(time.Second)
		require.Equal(t, extauthz.ReasonSessionExpired, b.fetch("/").Reason)
		b.login("/", "alice")

		w.op.lives = 0
		w.rules.Session.Refresh = nil
		b.visit("/oauth2/logout")
		b.login("/", "alice")
		w.clock.pass(4 * time.Minute)
		require.True(t, b.fetch("/").Allowed)
		w.clock.pass(time.Minute)
		require.False(t, b.fetch("/").Allowed, "a provider that says nothing is asked after five minutes")
	})
}

func TestMemory(t *testing.T) {
	c := newClock()
	storetest.Run(t, login.NewMemory(1000, c.now, nil), c.pass)

	dropped := 0
	small := login.NewMemory(10, c.now, func() { dropped++ })
	for i := range 30 {
		require.NoError(t, small.Put(t.Context(), fmt.Sprint(i), []byte{1}, time.Duration(i+1)*time.Minute))
	}
	require.Equal(t, 10, small.Len())
	require.Equal(t, 20, dropped, "each is heard of")
	value, err := small.Get(t.Context(), "29")
	require.NoError(t, err)
	require.NotNil(t, value)
	value, err = small.Get(t.Context(), "0")
	require.NoError(t, err)
	require.Nil(t, value, "what ends first goes first")
	c.pass(time.Hour)
	require.NoError(t, small.Put(t.Context(), "x", []byte{1}, time.Minute))
	require.Equal(t, 1, small.Len())
	require.Equal(t, 20, dropped)
}
