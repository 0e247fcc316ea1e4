// Command limitbench measures what a rate limit decision costs: CPU time of the
// server and of Redis for each call, with 64 in flight and two descriptors, beside
// envoyproxy/ratelimit and a gRPC server that does nothing, in the same run; and
// latency when all are asked at the same rate. Each server is a process of its
// own, so that the client's work is not counted. It needs Linux (/proc) and
// redis-server, and builds envoyproxy/ratelimit once (bench/envoyratelimit).
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	serve := flag.String("serve", "", "be this server; for the program itself")
	redis := flag.String("redis", "", "URL of Redis; for the program itself")
	rules := flag.Int("rules", 2, "number of rules; for the program itself")
	calls := flag.Int("calls", 60_000, "calls of each kind")
	only := flag.String("only", "", "measure the kinds whose name holds this, and nothing else")
	out := flag.String("out", "", "write the table to this `file`, too")
	flag.Parse()
	if err := run(*serve, *redis, *rules, *calls, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "limitbench:", err)
		os.Exit(1)
	}
}

func run(serve, redis string, rules, calls int, only, out string) error {
	if serve != "" {
		return child(serve, redis, rules)
	}
	dir, err := os.MkdirTemp("", "limitbench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	table, err := measureAll(dir, calls, only)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, table); err != nil {
		return err
	}
	for _, roundTrip := range roundTrips() {
		part, err := measureCluster(dir, roundTrip, calls/4, only)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(os.Stdout, part); err != nil {
			return err
		}
		table += part
	}
	if out == "" {
		return nil
	}
	page := "# What a rate limit decision costs\n\nMade by `go run ./internal/limitbench` in ratelimit; two descriptors for each call, 1,000 users, CPU with 64 calls in flight, latency at " +
		fmt.Sprintf("%d calls/s, and at %d (busy), all\nin the same run on one machine, in turns, each server with a Redis of its own. Compare within the table.\n\n", rate, busyRate) + table
	return os.WriteFile(filepath.Clean(out), []byte(page), 0o644) //nolint:gosec // a page of the documentation
}

// kind is one server to measure.
type kind struct {
	name  string
	start func(dir string) (*running, error)
}

// What the others are compared with.
const (
	nothing    = "a gRPC server that does nothing"
	envoyproxy = "envoyproxy/ratelimit"
	dropIn     = "`ratelimit` in its place"
)

func kinds() []kind {
	self := func(mode string, rules int, redis bool) func(string) (*running, error) {
		return func(dir string) (*running, error) { return startSelf(dir, mode, rules, redis) }
	}
	return []kind{
		{nothing, self("noop", 2, false)},
		{envoyproxy, startPeer},
		{dropIn, startDropIn},
		{"`ratelimitd`, exact on Redis", self("redis", 2, true)},
		{"`ratelimitd`, exact on Redis, 10,000 rules", self("redis", 10_000, true)},
		{"`ratelimitd`, leased from Redis (10 users)", self("leased", 2, true)},
		{"`ratelimitd`, in memory", self("memory", 2, false)},
		{"`ratelimitd`, in memory, 10,000 rules", self("memory", 10_000, false)},
	}
}

// rounds are the turns that each server has: a machine that is slower for a while
// is so for all of them.
const rounds = 8

func measureAll(dir string, calls int, only string) (page string, err error) {
	calls /= rounds
	err = measure(dir, kinds(), calls, only, busyRate, func(subjects []*subject) { page = table(subjects, calls*rounds) })
	return page, err
}

// measure starts the kinds, measures them in turns and tells done of them, before
// they are stopped. busy is the second rate at which latency is measured, 0 for none.
func measure(dir string, kinds []kind, calls int, only string, busy int, done func([]*subject)) error {
	var subjects []*subject
	defer func() {
		for _, s := range subjects {
			s.stop()
		}
	}()
	for i, k := range kinds {
		if !strings.Contains(k.name, only) {
			continue
		}
		where := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(where, 0o700); err != nil {
			return err
		}
		s, err := k.subject(where, calls)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		subjects = append(subjects, s)
	}
	for round := range rounds {
		for _, s := range subjects {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, rounds, s.name)
			if err := s.round(calls, busy); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	done(subjects)
	return nil
}

func table(subjects []*subject, calls int) string {
	page := &strings.Builder{}
	page.WriteString("| | server µs/call | Redis µs/call | together | × nothing | × envoyproxy | p50 µs | p99 µs | p99 × envoyproxy | busy p50 µs | busy p99 µs | busy p99 × envoyproxy |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	base, peer, peerP99, peerBusy99 := 0.0, 0.0, 0.0, 0.0
	for _, s := range subjects {
		result := s.result(calls)
		together := result.server + result.redis
		switch s.name {
		case nothing:
			base = together
		case envoyproxy:
			peer, peerP99, peerBusy99 = together, result.p99.Seconds(), result.busy99.Seconds()
		}
		fmt.Fprintf(page, "| %s | %.1f | %.1f | %.1f | %s | %s | %d | %d | %s | %d | %d | %s |\n", s.name, result.server, result.redis, together,
			times(together, base), times(together, peer), result.p50.Microseconds(), result.p99.Microseconds(), times(result.p99.Seconds(), peerP99),
			result.busy50.Microseconds(), result.busy99.Microseconds(), times(result.busy99.Seconds(), peerBusy99))
	}
	return page.String()
}

func times(value, base float64) string {
	if base == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", value/base)
}
