package envoyrls_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrls"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/storetest"
)

func newTicketServer(t *testing.T) *envoyrls.Server {
	store, err := memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: storetest.NewClock().Now})
	require.NoError(t, err)
	table, err := ratelimit.NewTable([]*ratelimit.Rule{
		{ID: "ns/p/at-once", Limit: ratelimit.Limit{Algorithm: ratelimit.Concurrency, Requests: 1, Window: time.Minute}},
		{
			ID: "ns/p/tokens", Limit: ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 100, Window: time.Hour},
			Cost: ratelimit.Cost{Number: 40, Max: 90, Settles: true}, Tiers: map[string]ratelimit.TierNumbers{"gold": {Unlimited: true}},
		},
	})
	require.NoError(t, err)
	limiter := ratelimit.NewLimiter(store, nil)
	limiter.SetTable(table)
	return envoyrls.New(limiter, "weir")
}

func TestTicketsGoAndComeBack(t *testing.T) {
	server := newTicketServer(t)
	admitted := call(t, server, request(descriptor("ns/p/at-once"), descriptor("ns/p/tokens")))
	tickets, ok := admitted.GetDynamicMetadata().AsMap()["tickets"].(map[string]any)
	require.True(t, ok)
	require.Len(t, tickets, 2)
	require.Equal(t, `"at-once";r=0;t=60, "tokens";r=60;t=3600`, headers(admitted)["ratelimit"])

	refused := call(t, server, request(descriptor("ns/p/at-once"), descriptor("ns/p/tokens")))
	require.NotContains(t, refused.GetDynamicMetadata().AsMap(), "tickets", "of a refused request nothing is told")
	require.Equal(t, "1", headers(refused)["retry-after"])

	text := func(rule string) string { return tickets[rule].(string) }
	settled := call(t, server, request(
		descriptor("ns/p/at-once", "weir.ticket", text("ns/p/at-once")),
		descriptor("ns/p/tokens", "weir.ticket", text("ns/p/tokens"), "weir.cost", "7")))
	require.Empty(t, headers(settled))
	require.Nil(t, settled.GetDynamicMetadata())
	require.Equal(t, `"at-once";r=0;t=60, "tokens";r=53;t=3600`, headers(call(t, server, request(descriptor("ns/p/at-once"), descriptor("ns/p/tokens"))))["ratelimit"])
}

func TestUnlimitedSaysNothing(t *testing.T) {
	answer := call(t, newTicketServer(t), request(descriptor("ns/p/tokens", "tier", "gold")))
	require.Empty(t, headers(answer))
	require.Nil(t, answer.GetDynamicMetadata())
	require.Nil(t, answer.GetStatuses()[0].GetCurrentLimit())
}
