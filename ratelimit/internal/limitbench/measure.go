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
	// hotUsers are asked for with leases, which are for what is busy.
	hotUsers = 10
	// rate and busyRate are the calls a second at which latency is measured: few, and
	// about half of what envoyproxy/ratelimit and the client can do on two cores.
	rate     = 500
	busyRate = 4000
	ticks    = 100 // of /proc/PID/stat, each second; fixed on Linux
)

type result struct {
	server, redis float64 // µs for each call
	p50, p99      time.Duration
	// busy50 and busy99 are those at busyRate.
	busy50, busy99 time.Duration
}

// subject is a server that is being measured.
type subject struct {
	kind
	*client
	server      *running
	serverSpent float64 // seconds
	redisSpent  float64
	took, busy  []time.Duration
}

// client asks over several connections in turn.
type client struct {
	conns    []*grpc.ClientConn
	stubs    []rlsv3.RateLimitServiceClient
	requests []*rlsv3.RateLimitRequest
}

// subject starts the server, and has it answer some calls.
func (k kind) subject(dir string, calls int) (*subject, error) {
	server, err := k.start(dir)
	if err != nil {
		return nil, err
	}
	s := &subject{kind: k, server: server, client: &client{}}
	for range connections {
		conn, err := grpc.NewClient(server.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			s.stop()
			return nil, err
		}
		s.conns, s.stubs = append(s.conns, conn), append(s.stubs, rlsv3.NewRateLimitServiceClient(conn))
	}
	for i := range users {
		s.requests = append(s.requests, server.request(i))
	}
	if err := s.load(calls); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *subject) stop() {
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.server.stop()
}

// round measures it once more; the others have their turns in between.
func (s *subject) round(calls, busyRate int) error {
	serverBefore, redisBefore := cpu(s.server.pid), cpu(s.server.redisPIDs...)
	if err := s.load(calls); err != nil {
		return err
	}
	s.serverSpent += cpu(s.server.pid) - serverBefore
	s.redisSpent += cpu(s.server.redisPIDs...) - redisBefore
	took, err := s.latency(rate)
	s.took = append(s.took, took...)
	if err != nil || busyRate == 0 {
		return err
	}
	busy, err := s.latency(busyRate)
	s.busy = append(s.busy, busy...)
	return err
}

func (s *subject) result(calls int) result {
	each := 1e6 / float64(calls)
	made := result{server: s.serverSpent * each, redis: s.redisSpent * each}
	made.p50, made.p99 = percentiles(s.took)
	made.busy50, made.busy99 = percentiles(s.busy)
	return made
}

// percentiles are the 50th and the 99th; 0 of nothing.
func percentiles(took []time.Duration) (p50, p99 time.Duration) {
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
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

// latency asks at a fixed rate, whatever the answers take. A call is timed from
// when it is made, which no other call delays: how late this program's own timers
// are is none of the server's.
func (c *client) latency(rate int) ([]time.Duration, error) {
	calls := rate // those of a second
	took := make([]time.Duration, calls)
	var failed atomic.Int64
	var last atomic.Pointer[error]
	var group sync.WaitGroup
	started := time.Now()
	for i := range calls {
		time.Sleep(time.Until(started.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		group.Go(func() {
			sent := time.Now()
			if err := c.ask(i); err != nil {
				failed.Add(1)
				last.Store(&err)
			}
			took[i] = time.Since(sent)
		})
	}
	group.Wait()
	if failed.Load() > int64(calls/20) {
		return nil, fmt.Errorf("%d of %d calls failed at %d a second, such as: %w", failed.Load(), calls, rate, *last.Load())
	}
	return took, nil
}

// cpu is the user and system time of processes, in seconds.
func cpu(pids ...int) (seconds float64) {
	for _, pid := range pids {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(raw), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 13 {
			continue
		}
		user, _ := strconv.ParseFloat(fields[11], 64)
		system, _ := strconv.ParseFloat(fields[12], 64)
		seconds += (user + system) / ticks
	}
	return seconds
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
