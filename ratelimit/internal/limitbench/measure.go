package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	inFlight    = 64
	connections = 2 // as an Envoy of two workers has
	users       = 1000
	// rate is the calls a second at which latency is measured.
	rate  = 500
	ticks = 100 // of /proc/PID/stat, each second; fixed on Linux
)

type result struct {
	server, redis float64 // µs for each call
	p50, p99      time.Duration
}

// client asks over several connections in turn.
type client struct {
	stubs    []rlsv3.RateLimitServiceClient
	requests []*rlsv3.RateLimitRequest
}

func measure(k kind, dir string, calls int) (r result, err error) {
	server, err := k.start(dir)
	if err != nil {
		return r, err
	}
	defer server.stop()
	c := &client{}
	for range connections {
		conn, err := grpc.NewClient(server.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return r, err
		}
		defer func() { _ = conn.Close() }()
		c.stubs = append(c.stubs, rlsv3.NewRateLimitServiceClient(conn))
	}
	for i := range users {
		c.requests = append(c.requests, server.request(i))
	}
	if err := c.load(calls / 5); err != nil {
		return r, err
	}
	serverBefore, redisBefore := cpu(server.pid), cpu(server.redisPID)
	if err := c.load(calls); err != nil {
		return r, err
	}
	r.server = (cpu(server.pid) - serverBefore) / float64(calls) * 1e6
	r.redis = (cpu(server.redisPID) - redisBefore) / float64(calls) * 1e6
	r.p50, r.p99, err = c.latency()
	return r, err
}

func (c *client) ask(i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := c.stubs[i%len(c.stubs)].ShouldRateLimit(ctx, c.requests[i%len(c.requests)], grpc.WaitForReady(true))
	if err == nil && answer.GetOverallCode() != rlsv3.RateLimitResponse_OK {
		err = fmt.Errorf("answered %s", answer.GetOverallCode())
	}
	return err
}

func (c *client) load(calls int) error {
	var next, failed atomic.Int64
	var last atomic.Pointer[error]
	var group sync.WaitGroup
	for range inFlight {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(calls); i = next.Add(1) - 1 {
				if err := c.ask(int(i)); err != nil {
					failed.Add(1)
					last.Store(&err)
				}
			}
		})
	}
	group.Wait()
	if failed.Load() > int64(calls/1000) {
		return fmt.Errorf("%d of %d calls failed, such as: %w", failed.Load(), calls, *last.Load())
	}
	return nil
}

// latency asks at a fixed rate, whatever the answers take.
func (c *client) latency() (p50, p99 time.Duration, err error) {
	const calls = rate * 4
	took := make([]time.Duration, calls)
	var failed atomic.Int64
	var group sync.WaitGroup
	started := time.Now()
	for i := range calls {
		due := started.Add(time.Duration(i) * time.Second / rate)
		time.Sleep(time.Until(due))
		group.Go(func() {
			if c.ask(i) != nil {
				failed.Add(1)
			}
			took[i] = time.Since(due)
		})
	}
	group.Wait()
	if failed.Load() > calls/20 {
		return 0, 0, fmt.Errorf("%d of %d calls failed at %d a second", failed.Load(), calls, rate)
	}
	slices.Sort(took)
	return took[calls/2], took[calls*99/100], nil
}

// cpu is a process's user and system time in seconds.
func cpu(pid int) float64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if pid == 0 || len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks
}

// peerRequest names what is counted, as envoyproxy/ratelimit is told.
func peerRequest(i int) *rlsv3.RateLimitRequest {
	return &rlsv3.RateLimitRequest{Domain: "bench", Descriptors: []*ratelimitv3.RateLimitDescriptor{
		descriptor("route", "users"), descriptor("user", "user-"+strconv.Itoa(i)),
	}}
}

func descriptor(key, value string) *ratelimitv3.RateLimitDescriptor {
	return &ratelimitv3.RateLimitDescriptor{Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: key, Value: value}}}
}
