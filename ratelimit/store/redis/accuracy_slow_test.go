//go:build slow

package redis_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/internal/redistest"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/lease"
	"weir.dev/ratelimit/store/redis"
)

var writeTable = flag.Bool("update", false, "write docs/bench/accuracy.md")

const accuracyPage = "../../../docs/bench/accuracy.md"

// What is asked for: three times the limit, for a few windows.
const (
	accuracyLimit   = 200
	accuracyWindow  = time.Second
	accuracyWindows = 4
	accuracyOffered = 3
)

// way is one way to count.
type way struct {
	name   string
	limit  ratelimit.Limit
	leased bool
	// window says that the bound is of the clock's windows, otherwise of any
	// interval as long as the window.
	window bool
	// bound is admitted ÷ limit that is never exceeded.
	bound float64
	says  string
}

func ways() []way {
	limit := func(algorithm ratelimit.Algorithm) ratelimit.Limit {
		return ratelimit.Limit{Algorithm: algorithm, Requests: accuracyLimit, Window: accuracyWindow}
	}
	bursty := limit(ratelimit.GCRA)
	bursty.Burst = accuracyLimit / 4
	return []way{
		{"fixed window", limit(ratelimit.FixedWindow), false, true, 1, "1 in each window of the clock; 2 in any interval as long"},
		{"sliding window", limit(ratelimit.SlidingWindow), false, false, 1, "1 in any interval as long as the window"},
		{"GCRA, burst of a quarter", bursty, false, false, 1.25, "1 and the burst in any interval as long as the window"},
		{"fixed window, leased", limit(ratelimit.FixedWindow), true, true, 1, "1 in each window of the clock"},
		{"GCRA, burst of a quarter, leased", bursty, true, false, 1.25, "1 and the burst in any interval as long as the window"},
	}
}

// scene is what happens meanwhile.
type scene struct {
	name       string
	replicas   int
	cluster    bool
	replicated bool
	skew       bool
	// burst asks at the ends of windows only.
	burst bool
	// loses says that the store may forget what it admitted.
	loses bool
	// happens runs while requests come; restart replaces a replica.
	happens func(t *testing.T, cluster *redistest.Cluster, restart func(i int))
}

func scenes() []scene {
	return []scene{
		{name: "one replica", replicas: 1},
		{name: "bursts at the windows' boundaries", replicas: 1, burst: true},
		{name: "two replicas", replicas: 2},
		{name: "four replicas", replicas: 4},
		{name: "two replicas, clocks wrong by 5 s", replicas: 2, skew: true},
		{name: "rolling restart of four", replicas: 4, happens: func(_ *testing.T, _ *redistest.Cluster, restart func(int)) {
			for i := range 4 {
				time.Sleep(accuracyWindow / 2)
				restart(i)
			}
		}},
		{name: "cluster, slots moved", replicas: 2, cluster: true, happens: func(t *testing.T, cluster *redistest.Cluster, _ func(int)) {
			for i := range 12 {
				slot, err := cluster.Masters[0].Client.ClusterKeySlot(t.Context(), "{weir.0}").Result()
				require.NoError(t, err)
				cluster.MoveSlot(t, int(slot), cluster.Masters[i%3], nil)
				time.Sleep(accuracyWindow / 5)
			}
		}},
		{name: "cluster, orderly failover", replicas: 2, cluster: true, replicated: true, happens: func(t *testing.T, cluster *redistest.Cluster, _ func(int)) {
			time.Sleep(accuracyWindow)
			for _, replica := range cluster.Replicas {
				require.NoError(t, replica.Client.ClusterFailover(t.Context()).Err())
			}
		}},
		{name: "cluster, masters killed", replicas: 2, cluster: true, replicated: true, loses: true, happens: func(t *testing.T, cluster *redistest.Cluster, _ func(int)) {
			time.Sleep(accuracyWindow)
			slot, err := cluster.Masters[0].Client.ClusterKeySlot(t.Context(), "{weir.0}").Result()
			require.NoError(t, err)
			cluster.Owner(t, int(slot)).Kill(t)
			time.Sleep(4 * accuracyWindow)
		}},
	}
}

// TestSlowAccuracy counts what is admitted of three times the limit, by the
// store's clock, whatever happens meanwhile.
func TestSlowAccuracy(t *testing.T) {
	var table strings.Builder
	table.WriteString("| | bound |")
	for _, s := range scenes() {
		fmt.Fprintf(&table, " %s |", s.name)
	}
	table.WriteString("\n| --- | --- |" + strings.Repeat(" ---: |", len(scenes())) + "\n")
	for _, w := range ways() {
		fmt.Fprintf(&table, "| %s | %s |", w.name, w.says)
		for _, s := range scenes() {
			t.Run(w.name+"/"+s.name, func(t *testing.T) {
				most, mean, failed := playScene(t, w, s)
				t.Logf("most %.3f, mean %.3f, %d without an answer", most, mean, failed)
				if !s.loses {
					require.LessOrEqual(t, most, w.bound, "never above the bound")
				}
				fmt.Fprintf(&table, " %.3f (%.2f) |", most, mean)
			})
		}
		table.WriteString("\n")
	}
	if *writeTable {
		page := fmt.Sprintf("# How exact limits are\n\nMade by `go test -tags slow -run TestSlowAccuracy ./store/redis -update` in ratelimit: a limit of %d a second, %d times that asked for, real Redis\n"+
			"servers. Each figure is the most that was admitted in a window, or in any interval of its length, divided by the limit; in brackets all that was\nadmitted, divided by what the limit lets through in the whole time. "+
			"When a master is killed, Redis forgets what it had not yet told its replica, and\nnobody answers until that takes over: what it forgot may be admitted again, so there is no bound in that column.\n\n", accuracyLimit, accuracyOffered)
		require.NoError(t, os.WriteFile(accuracyPage, []byte(page+table.String()), 0o644))
	}
}

// player is one replica of the limiter.
type player struct {
	store ratelimit.Store
	stop  func()
}

func newPlayer(t *testing.T, shared goredis.UniversalClient, w way, skew time.Duration) *player {
	store, err := redis.New(shared, redis.Options{Prefix: "weir"})
	require.NoError(t, err)
	p := &player{store: guard.New(store, guard.Options{Timeout: 500 * time.Millisecond}), stop: func() {}}
	if w.leased {
		leasing := lease.New(p.store, lease.Options{Clock: func() time.Time { return time.Now().Add(skew) }})
		ctx, cancel := context.WithCancel(context.Background())
		var ended sync.WaitGroup
		ended.Go(func() { leasing.Run(ctx) })
		p.store, p.stop = leasing, func() { cancel(); ended.Wait() }
	}
	return p
}

func playScene(t *testing.T, w way, s scene) (most, mean float64, failed int64) {
	var cluster *redistest.Cluster
	var shared goredis.UniversalClient
	if s.cluster {
		cluster = redistest.StartCluster(t, 3, s.replicated)
		shared = clusterClient(t, cluster)
	} else {
		shared = client(t, redistest.Start(t))
	}
	players := make([]atomic.Pointer[player], s.replicas)
	start := func(i int) {
		skew := time.Duration(0)
		if s.skew {
			skew = time.Duration(2*i-1) * 5 * time.Second
		}
		if old := players[i].Swap(newPlayer(t, shared, w, skew)); old != nil {
			old.stop()
		}
	}
	for i := range players {
		start(i)
	}
	// Group 64 is the first of the cluster's 64.
	charge := ratelimit.Charge{Key: "k", Group: redis.DefaultClusterGroups, Limit: w.limit, Cost: 1, Leased: w.leased}
	var mu sync.Mutex
	var admitted []ratelimit.Time
	var failures atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	const workers = 12
	for worker := range workers {
		group.Go(func() {
			ticker := time.NewTicker(workers * accuracyWindow / accuracyLimit / accuracyOffered)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				// Only around the boundary of a window.
				if at := time.Now().UnixMicro() % accuracyWindow.Microseconds(); s.burst && at > 200_000 && at < 800_000 {
					continue
				}
				outcome, err := players[worker%s.replicas].Load().store.Take(context.Background(), []ratelimit.Charge{charge})
				switch {
				case err != nil:
					failures.Add(1)
				case outcome.Admitted:
					mu.Lock()
					admitted = append(admitted, outcome.Now)
					mu.Unlock()
				}
			}
		})
	}
	began := time.Now()
	if s.happens != nil {
		s.happens(t, cluster, start)
	}
	time.Sleep(time.Until(began.Add(accuracyWindows * accuracyWindow)))
	took := time.Since(began)
	cancel()
	group.Wait()
	for i := range players {
		players[i].Load().stop()
	}
	slices.Sort(admitted)
	return float64(densest(admitted, w)) / accuracyLimit, float64(len(admitted)) / (accuracyLimit * took.Seconds() / accuracyWindow.Seconds()), failures.Load()
}

// densest is the most that was admitted in a window, or in any interval of its
// length.
func densest(admitted []ratelimit.Time, w way) (most int) {
	window := w.limit.Window.Microseconds()
	first := 0
	for i, at := range admitted {
		for w.window && admitted[first]/window != at/window || !w.window && admitted[first] <= at-window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
