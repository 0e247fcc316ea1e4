package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestALatencyIsThatOfMostTurns(t *testing.T) {
	took := make([]time.Duration, 200)
	for i := range took {
		took[len(took)-1-i] = time.Duration(i + 1)
	}
	require.Equal(t, latency{p50: 101, p99: 199}, latencyOf(took))
	require.Equal(t, latency{}, latencyOf(nil))

	turns := []latency{{p50: 5, p99: 30}, {p50: 4, p99: 10_000}, {p50: 3, p99: 20}}
	require.Equal(t, latency{p50: 4, p99: 30}, middle(turns), "a pause in one turn decides nothing")
	turns[0].p99 = 9_000
	require.Equal(t, time.Duration(9_000), middle(turns).p99, "what most turns have does")
	require.Equal(t, latency{}, middle(nil))
}
