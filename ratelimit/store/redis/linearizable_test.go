package redis_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/redis"
)

// linearKeys is how many counters the histories are about.
const linearKeys = 3

// asked is what one request charges, by counter; 0 leaves it out.
type asked [linearKeys]uint64

// answered is what came back: the counters that it names, after it.
type answered struct {
	admitted bool
	counts   [linearKeys]uint64
}

// counters is the plain meaning of limits of the same capacity, all or nothing.
func counters(capacity uint64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return [linearKeys]uint64{} },
		Step: func(state, input, output any) (bool, any) {
			counts, in, out := state.([linearKeys]uint64), input.(asked), output.(answered)
			admitted, after := true, counts
			for i, cost := range in {
				admitted = admitted && counts[i]+cost <= capacity
				after[i] += cost
			}
			if !admitted {
				after = counts
			}
			for i, cost := range in {
				if cost > 0 && out.counts[i] != after[i] {
					return false, state
				}
			}
			return admitted == out.admitted, after
		},
	}
}

// TestConcurrentRequestsAreLinearizable asks through two replicas at once, several
// counters in one request, and holds what each was told to some order in which
// requests could have been decided one after the other.
func TestConcurrentRequestsAreLinearizable(t *testing.T) {
	server := redistest.Start(t)
	for round := range 5 {
		const clients, calls, capacity = 8, 25, 40
		limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: capacity, Window: 366 * 24 * time.Hour}
		var replicas [2]*redis.Store
		for i := range replicas {
			var err error
			replicas[i], err = redis.New(client(t, server), redis.Options{Prefix: fmt.Sprint("round", round)})
			require.NoError(t, err)
		}
		var mu sync.Mutex
		var history []porcupine.Operation
		var clock atomic.Int64
		var group sync.WaitGroup
		for worker := range clients {
			group.Go(func() {
				random := rand.New(rand.NewPCG(uint64(round), uint64(worker)))
				for range calls {
					var in asked
					in[random.IntN(linearKeys)] = 1 + random.Uint64N(3)
					in[random.IntN(linearKeys)] = 1
					var charges []ratelimit.Charge
					var places []int
					for i, cost := range in {
						if cost > 0 {
							charges = append(charges, ratelimit.Charge{Key: ratelimit.Key(fmt.Sprint("k", i)), Limit: limit, Cost: cost})
							places = append(places, i)
						}
					}
					called := clock.Add(1)
					outcome, err := replicas[worker%2].Take(t.Context(), charges)
					returned := clock.Add(1)
					if err != nil {
						t.Error(err)
						return
					}
					out := answered{admitted: outcome.Admitted}
					for j, place := range places {
						out.counts[place] = outcome.Results[j].State.Count
					}
					mu.Lock()
					history = append(history, porcupine.Operation{ClientId: worker, Input: in, Call: called, Output: out, Return: returned})
					mu.Unlock()
				}
			})
		}
		group.Wait()
		require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(counters(capacity), history, time.Minute))
	}
}

// TestControlLookingBeforeChargingIsNotLinearizable shows that the check above
// finds what a store does that asks first and charges then.
func TestControlLookingBeforeChargingIsNotLinearizable(t *testing.T) {
	store, err := redis.New(client(t, redistest.Start(t)), redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	limit := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 1, Window: 366 * 24 * time.Hour}
	var looked, done sync.WaitGroup
	looked.Add(2)
	history := make([]porcupine.Operation, 2)
	for i := range history {
		done.Go(func() {
			charge := ratelimit.Charge{Key: "k", Limit: limit, Cost: 1, Look: true}
			outcome, err := store.Take(t.Context(), []ratelimit.Charge{charge})
			looked.Done()
			looked.Wait()
			if err == nil && outcome.Admitted {
				charge.Look, charge.Force = false, true
				outcome, err = store.Take(t.Context(), []ratelimit.Charge{charge})
			}
			if err != nil {
				t.Error(err)
				return
			}
			history[i] = porcupine.Operation{
				ClientId: i, Input: asked{1}, Call: 0, Return: 10,
				Output: answered{admitted: true, counts: [linearKeys]uint64{outcome.Results[0].State.Count}},
			}
		})
	}
	done.Wait()
	require.Equal(t, porcupine.Illegal, porcupine.CheckOperationsTimeout(counters(1), history, time.Minute))
}
