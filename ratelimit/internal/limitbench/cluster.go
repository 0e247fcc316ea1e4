package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	goredis "github.com/redis/go-redis/v9"

	"weir.dev/ratelimit/envoyrls"
)

const (
	clusterNodes = 3
	clusterSlots = 16384
	// many is how many descriptors a request of the second table has, each a counter
	// of its own.
	many = 10
)

// roundTrips are those between a server and the cluster, beside what the loopback
// takes.
func roundTrips() []time.Duration { return []time.Duration{0, 500 * time.Microsecond} }

// measureCluster is a section for one distance of the cluster.
func measureCluster(dir string, roundTrip time.Duration, calls int, which selection) (page string, err error) {
	var kinds []kind
	for _, name := range []string{envoyproxy, dropIn, "`ratelimitd`"} {
		kinds = append(kinds, kind{name, func(dir string) (*running, error) { return startOnCluster(dir, name, roundTrip) }})
	}
	calls /= rounds
	dir = filepath.Join(dir, "cluster-"+roundTrip.String())
	err = measure(dir, kinds, calls, which, paces()[:1], func(subjects []*subject, _ []pace) { page = clusterTable(subjects, roundTrip, calls*rounds) })
	return page, err
}

func clusterTable(subjects []*subject, roundTrip time.Duration, calls int) string {
	page := &strings.Builder{}
	fmt.Fprintf(page, "\n## %d descriptors on a Redis Cluster of %d, %s\n\n", many, clusterNodes, farness(roundTrip))
	page.WriteString("| | server µs/call | Redis µs/call | together × envoyproxy | p50 µs | p50 × envoyproxy | p99 µs | p99 × envoyproxy |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	var peerCPU, peer50, peer99 float64
	for _, s := range subjects {
		server, redis := s.cost(calls)
		took := middle(s.latencies[0])
		if s.name == envoyproxy {
			peerCPU, peer50, peer99 = server+redis, took.p50.Seconds(), took.p99.Seconds()
		}
		fmt.Fprintf(page, "| %s | %.1f | %.1f | %s | %d | %s | %d | %s |\n", s.name, server, redis, times(server+redis, peerCPU),
			took.p50.Microseconds(), times(took.p50.Seconds(), peer50), took.p99.Microseconds(), times(took.p99.Seconds(), peer99))
	}
	return page.String()
}

func farness(roundTrip time.Duration) string {
	if roundTrip == 0 {
		return "on the same machine"
	}
	return fmt.Sprintf("%s more for a round trip, as between machines", roundTrip)
}

func startOnCluster(dir, name string, roundTrip time.Duration) (r *running, err error) {
	r = &running{request: manyRequest}
	defer r.stopOn(&err)
	addresses, err := r.startCluster(dir, roundTrip)
	if err != nil {
		return nil, err
	}
	build := buildPeer
	switch name {
	case envoyproxy:
	case dropIn:
		build = buildDropIn
	default:
		r.request = ownManyRequest
		return r, r.serveSelf("", "cluster", "redis://"+addresses[0]+"?addr="+strings.Join(addresses[1:], "&addr="), many)
	}
	binary, err := build()
	if err != nil {
		return nil, err
	}
	// The window is what envoyproxy/ratelimit's documentation asks for on a cluster.
	return r, r.configured(dir, binary, manyConfig(), "REDIS_TYPE=CLUSTER", "REDIS_SOCKET_TYPE=tcp", "REDIS_URL="+strings.Join(addresses, ","), "REDIS_PIPELINE_WINDOW=150us")
}

func manyConfig() string {
	text := "domain: bench\ndescriptors:\n"
	for i := range many {
		text += fmt.Sprintf("- key: limit-%d\n  rate_limit: {unit: hour, requests_per_unit: 4000000000}\n", i)
	}
	return text
}

func manyRequest(i int) *rlsv3.RateLimitRequest {
	request := &rlsv3.RateLimitRequest{Domain: "bench"}
	for j := range many {
		request.Descriptors = append(request.Descriptors, descriptor(fmt.Sprintf("limit-%d", j), "user-"+strconv.Itoa(i)))
	}
	return request
}

func ownManyRequest(i int) *rlsv3.RateLimitRequest {
	request := manyRequest(i)
	for j, d := range request.GetDescriptors() {
		d.Entries = append([]*ratelimitv3.RateLimitDescriptor_Entry{{Key: envoyrls.LimitKey, Value: ruleID(j)}}, d.GetEntries()...)
	}
	return request
}

// startCluster starts the nodes and returns their addresses, behind proxies that
// delay where a round trip is asked for.
func (r *running) startCluster(dir string, roundTrip time.Duration) (addresses []string, err error) {
	type node struct {
		bus, port string
		client    *goredis.Client
	}
	var nodes []node
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.client.Close())
		}
	}()
	for i := range clusterNodes {
		ports, err := freePorts(2)
		if err != nil {
			return nil, err
		}
		n := node{port: ports[0], bus: ports[1]}
		address := "127.0.0.1:" + n.port
		if roundTrip > 0 {
			if address, err = r.delay(address, roundTrip/2); err != nil {
				return nil, err
			}
		}
		_, announced, _ := net.SplitHostPort(address)
		command := exec.CommandContext(context.Background(), "redis-server", "--bind", "127.0.0.1", "--port", n.port, //nolint:gosec // our own numbers
			"--cluster-enabled", "yes", "--cluster-port", n.bus, "--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", announced,
			"--cluster-announce-bus-port", n.bus, "--cluster-config-file", filepath.Join(dir, fmt.Sprintf("nodes-%d.conf", i)),
			"--save", "", "--appendonly", "no", "--dir", dir, "--loglevel", "warning")
		pid, err := r.start(command)
		if err != nil {
			return nil, fmt.Errorf("redis-server (Debian: apt-get install redis-server): %w", err)
		}
		r.redisPIDs = append(r.redisPIDs, pid)
		n.client = goredis.NewClient(&goredis.Options{Addr: "127.0.0.1:" + n.port})
		nodes, addresses = append(nodes, n), append(addresses, address)
		if err := dialable("tcp", "127.0.0.1:"+n.port); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i, n := range nodes {
		from, to := i*clusterSlots/clusterNodes, (i+1)*clusterSlots/clusterNodes-1
		if err := n.client.ClusterAddSlotsRange(ctx, from, to).Err(); err != nil {
			return nil, err
		}
		if err := nodes[0].client.Do(ctx, "cluster", "meet", "127.0.0.1", n.port, n.bus).Err(); i > 0 && err != nil {
			return nil, err
		}
	}
	for _, n := range nodes {
		for {
			info, err := n.client.ClusterInfo(ctx).Result()
			if err != nil {
				return nil, fmt.Errorf("the cluster does not come up: %w", err)
			}
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r\n", clusterNodes)) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return addresses, nil
}

// delay makes what goes to an address and back take longer by so much each way, as
// a network does: what follows does not wait for what is under way.
func (r *running) delay(to string, by time.Duration) (address string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	r.closers = append(r.closers, listener.Close)
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			go late(far, near, by)
			go late(near, far, by)
		}
	}()
	return listener.Addr().String(), nil
}

// late copies until either ends, each piece so much after it came.
func late(to, from net.Conn, by time.Duration) {
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			data := make([]byte, 16<<10)
			n, err := from.Read(data)
			if err != nil {
				return
			}
			pieces <- piece{time.Now().Add(by), data[:n]}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range pieces { // until the reader has noticed
	}
}
