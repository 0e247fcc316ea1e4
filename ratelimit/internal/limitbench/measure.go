package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	inFlight    = 64
	connections = 2 // as an Envoy of two workers has
	users       = 1000
	// hotUsers are asked for with leases, which are for what is busy.
	hotUsers = 10
)

// subject is a server that is being measured.
type subject struct {
	kind
	*client
	server      *running
	serverSpent float64 // seconds
	redisSpent  float64
	latencies   [][]latency // of each turn, by pace
}

// client asks over several connections in turn.
type client struct {
	conns    []*grpc.ClientConn
	stubs    []rlsv3.RateLimitServiceClient
	requests []*rlsv3.RateLimitRequest
}

// patience is how long an answer is waited for.
const patience = 10 * time.Second

// warming is how many turns' calls a server answers before it is measured: its first
// second is a slow one.
const warming = 4

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
	if err := s.load(warming * calls); err != nil {
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

// capacity is how many calls a second it answers with inFlight of them under way,
// this client's share of the machine included.
func (s *subject) capacity(calls int) (perSecond float64, err error) {
	started := time.Now()
	err = s.load(calls)
	return float64(calls) / time.Since(started).Seconds(), err
}

// round measures it once more; the others have their turns in between.
func (s *subject) round(calls int, asked []pace) error {
	serverBefore, redisBefore, err := s.spent()
	if err == nil {
		err = s.load(calls)
	}
	if err != nil {
		return err
	}
	server, redis, err := s.spent()
	if err != nil {
		return err
	}
	s.serverSpent += server - serverBefore
	s.redisSpent += redis - redisBefore
	if s.latencies == nil {
		s.latencies = make([][]latency, len(asked))
	}
	for i, p := range asked {
		took, err := s.askAt(p.calls)
		if err != nil {
			return err
		}
		s.latencies[i] = append(s.latencies[i], latencyOf(took))
	}
	return nil
}

// spent is the CPU time of the server and of its Redis so far.
func (s *subject) spent() (server, redis float64, err error) {
	if server, err = cpu(s.server.pid); err == nil {
		redis, err = cpu(s.server.redisPIDs...)
	}
	return server, redis, err
}

// cost is what a call took of the server's CPU and of Redis', in µs.
func (s *subject) cost(calls int) (server, redis float64) {
	each := 1e6 / float64(calls)
	return s.serverSpent * each, s.redisSpent * each
}

// latency is what calls of one turn took: half of them, and 99 of 100, no longer.
type latency struct{ p50, p99 time.Duration }

// latencyOf is 0 of nothing.
func latencyOf(took []time.Duration) latency {
	slices.Sort(took)
	return latency{quantile(took, 50), quantile(took, 99)}
}

// middle is the median of turns' p50 and that of their p99. A machine that pauses
// for a tenth of a second once in all turns would otherwise be most of a p99.
func middle(turns []latency) latency {
	var p50, p99 []time.Duration
	for _, turn := range turns {
		p50, p99 = append(p50, turn.p50), append(p99, turn.p99)
	}
	slices.Sort(p50)
	slices.Sort(p99)
	return latency{quantile(p50, 50), quantile(p99, 50)}
}

// quantile is what percent of the sorted durations are at most; 0 of nothing.
func quantile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)*percent/100]
}

func (c *client) ask(i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
	if failed.Load() > int64(max(1, calls/1000)) {
		return fmt.Errorf("%d of %d calls failed, such as: %w", failed.Load(), calls, *last.Load())
	}
	return nil
}

// askAt asks at a fixed rate for a turn, whatever the answers take. A call is timed from
// when it is made, which no other call delays: how late this program's own timers
// are is none of the server's.
func (c *client) askAt(rate int) ([]time.Duration, error) {
	calls := int(turnOfLatency.Seconds() * float64(rate))
	took := make([]time.Duration, calls)
	var failed atomic.Int64
	var last atomic.Pointer[error]
	var group sync.WaitGroup
	started := time.Now()
	for i := range calls {
		time.Sleep(time.Until(started.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		group.Go(func() {
			sent := time.Now()
			err := c.ask(i)
			if took[i] = time.Since(sent); err != nil {
				took[i] = patience // no answer is later than any
				failed.Add(1)
				last.Store(&err)
			}
		})
	}
	group.Wait()
	if failed.Load() > int64(calls/4) {
		return nil, fmt.Errorf("%d of %d calls failed at %d a second, such as: %w", failed.Load(), calls, rate, *last.Load())
	}
	return took, nil
}

// cpu is the user and system time of processes, in seconds; see clock_getcpuclockid(3)
// for their clocks, which count in nanoseconds where /proc/PID/stat has hundredths.
func cpu(pids ...int) (seconds float64, err error) {
	const cpuclockSched = 2
	for _, pid := range pids {
		var spent unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &spent); err != nil { //nolint:gosec // as the C library has it
			return 0, fmt.Errorf("the CPU clock of process %d: %w", pid, err)
		}
		seconds += float64(spent.Nano()) / 1e9
	}
	return seconds, nil
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
