package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"weir.dev/kit/heap"
	"weir.dev/kit/rpcserver"
	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrls"
	"weir.dev/ratelimit/metrics"
	"weir.dev/ratelimit/offenders"
	"weir.dev/ratelimit/rlscodec"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/lease"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/store/redis"
)

// running is a server with its Redis, if it has one.
type running struct {
	address   string
	pid       int
	redisPIDs []int
	request   func(i int) *rlsv3.RateLimitRequest
	commands  []*exec.Cmd
	closers   []func() error
}

func (r *running) stop() {
	for _, command := range r.commands {
		_ = command.Process.Kill()
		_ = command.Wait()
	}
	for _, closer := range r.closers {
		_ = closer()
	}
}

func (r *running) start(command *exec.Cmd) (pid int, err error) {
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		return 0, err
	}
	r.commands = append(r.commands, command)
	return command.Process.Pid, nil
}

// startRedis starts one that keeps nothing on disk.
func (r *running) startRedis(dir string) (socket string, err error) {
	socket = filepath.Join(dir, "redis")
	command := exec.CommandContext(context.Background(), "redis-server", "--port", "0", "--unixsocket", socket, //nolint:gosec // our own file
		"--save", "", "--appendonly", "no", "--dir", dir, "--loglevel", "warning")
	pid, err := r.start(command)
	if err != nil {
		return "", fmt.Errorf("redis-server (Debian: apt-get install redis-server): %w", err)
	}
	r.redisPIDs = append(r.redisPIDs, pid)
	return socket, dialable("unix", socket)
}

// dialable waits until somebody listens.
func dialable(network, address string) error {
	for range 200 {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), network, address)
		if err == nil {
			return conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("nobody listens on %s", address)
}

// startSelf starts a server of program; of this one if that is empty.
func startSelf(dir, program, mode string, rules int, withRedis bool) (r *running, err error) {
	r = &running{request: func(i int) *rlsv3.RateLimitRequest {
		if mode == "leased" {
			i %= hotUsers
		}
		return ownRequest(i, rules)
	}}
	defer r.stopOn(&err)
	url := ""
	if withRedis {
		socket, err := r.startRedis(dir)
		if err != nil {
			return nil, err
		}
		url = "unix://" + socket
	}
	return r, r.serveSelf(program, mode, url, rules)
}

func (r *running) serveSelf(program, mode, url string, rules int) error {
	if program == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		program = self
	}
	command := exec.CommandContext(context.Background(), program, "-serve", mode, "-redis", url, "-rules", fmt.Sprint(rules)) //nolint:gosec // a build of this program
	stdout, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if r.pid, err = r.start(command); err != nil {
		return err
	}
	if _, err = fmt.Fscanln(stdout, &r.address); err != nil {
		return fmt.Errorf("the server did not start: %w", err)
	}
	return nil
}

func (r *running) stopOn(err *error) {
	if *err != nil {
		r.stop()
	}
}

const peerConfig = `domain: bench
descriptors:
- key: route
  rate_limit: {unit: hour, requests_per_unit: 4000000000}
- key: user
  rate_limit: {unit: hour, requests_per_unit: 4000000000}
`

// startPeer starts envoyproxy/ratelimit as it is delivered.
func startPeer(dir string) (*running, error) { return startConfigured(dir, buildPeer) }

func startDropIn(dir string) (*running, error) { return startConfigured(dir, buildDropIn) }

func buildPeer() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	return build(filepath.Join(root, "..", "bench", "envoyratelimit"), ".", "envoyratelimit-bench")
}

func buildDropIn() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	return build(root, "./cmd/ratelimit", "ratelimit-bench")
}

func moduleRoot() (string, error) {
	output, err := exec.CommandContext(context.Background(), "go", "list", "-f", "{{.Module.Dir}}", "weir.dev/ratelimit").Output()
	return strings.TrimSpace(string(output)), err
}

// build compiles into the user's cache, where the go command makes it quick.
func build(module, target, name string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(cache, "weir", "bench", name)
	if err := os.MkdirAll(filepath.Dir(binary), 0o750); err != nil {
		return "", err
	}
	command := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-o", binary, target) //nolint:gosec // our own arguments
	command.Dir, command.Env = module, append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if output, err := command.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(output)))
	}
	return binary, nil
}

// startConfigured starts either program that reads the same files and variables.
func startConfigured(dir string, build func() (string, error)) (r *running, err error) {
	r = &running{request: peerRequest}
	defer r.stopOn(&err)
	binary, err := build()
	if err != nil {
		return nil, err
	}
	socket, err := r.startRedis(dir)
	if err != nil {
		return nil, err
	}
	return r, r.configured(dir, binary, peerConfig, "REDIS_SOCKET_TYPE=unix", "REDIS_URL="+socket)
}

// configured starts a program on a file of limits; set says where Redis is.
func (r *running) configured(dir, binary, limits string, set ...string) error {
	folder := filepath.Join(dir, "ratelimit", "config")
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "bench.yaml"), []byte(limits), 0o600); err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	command := exec.CommandContext(context.Background(), binary) //nolint:gosec // built above
	command.Env = append(append(os.Environ(), "HOST=127.0.0.1", "PORT="+ports[0], "DEBUG_HOST=127.0.0.1", "DEBUG_PORT="+ports[1],
		"GRPC_HOST=127.0.0.1", "GRPC_PORT="+ports[2], "RUNTIME_ROOT="+dir, "RUNTIME_SUBDIRECTORY=ratelimit", "DISABLE_STATS=true", "USE_STATSD=false",
		"LOG_LEVEL=error"), set...)
	if r.pid, err = r.start(command); err != nil {
		return err
	}
	r.address = "127.0.0.1:" + ports[2]
	return dialable("tcp", r.address)
}

// freePorts are ones that nobody listens on, of this machine.
func freePorts(count int) (ports []string, err error) {
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = listener.Close() }()
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}

type noop struct {
	rlsv3.UnimplementedRateLimitServiceServer
}

func (noop) ShouldRateLimit(context.Context, *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, nil
}

// child serves until its parent kills it.
func child(mode, url string, rules int) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if mode == "noop" {
		server := grpc.NewServer()
		rlsv3.RegisterRateLimitServiceServer(server, noop{})
		if _, err := fmt.Fprintln(os.Stdout, listener.Addr()); err != nil {
			return err
		}
		return server.Serve(listener)
	}
	defer heap.NewFloor().Release() // as ratelimitd has it
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return err
	}
	registry, logger := prometheus.NewRegistry(), slog.New(slog.NewTextHandler(io.Discard, nil))
	observer, err := metrics.New(registry, logger)
	if err != nil {
		return err
	}
	store, err := openStore(mode, url, observer)
	if err != nil {
		return err
	}
	limiter := ratelimit.NewLimiter(store, observer)
	table, err := ratelimit.NewTable(ownRules(rules, mode == "leased"))
	if err != nil {
		return err
	}
	observer.SetRules(table.IDs())
	limiter.SetTable(table)
	var config rpcserver.Config
	config.SetDefaults()
	config.Listen, config.Plaintext = address, true
	server, err := rpcserver.New(config, rpcserver.Options{Name: "bench", Logger: logger, Registry: registry, Quiet: true, Anonymous: true, Codec: rlscodec.New()})
	if err != nil {
		return err
	}
	rlsv3.RegisterRateLimitServiceServer(server.GRPC(), envoyrls.New(limiter, "bench", offenders.New(logger, observer, nil)))
	server.SetServing(true)
	if _, err := fmt.Fprintln(os.Stdout, address); err != nil {
		return err
	}
	return server.Run(context.Background())
}

func openStore(mode, url string, observer guard.Observer) (ratelimit.Store, error) {
	if mode == "memory" {
		return memory.New(memory.Options{MaxKeys: 1_000_000})
	}
	var config redis.Config
	config.SetDefaults()
	config.URL = url
	if mode == "cluster" {
		config.Mode = "cluster"
	}
	client, err := config.NewClient(time.Second)
	if err != nil {
		return nil, err
	}
	store, err := redis.New(client, redis.Options{Prefix: "bench"})
	if err != nil {
		return nil, err
	}
	leasing := lease.New(guard.New(store, guard.Options{Timeout: time.Second, MaxInFlight: 4096, Observer: observer}), lease.Options{})
	go leasing.Run(context.Background()) // until the parent kills this process
	return leasing, nil
}

func ruleID(i int) string { return fmt.Sprintf("bench/policy-%d/limit-%d", i/2, i%2) }

// ownRules are pairs: one for all, one for each user.
func ownRules(count int, leased bool) []*ratelimit.Rule {
	rules := make([]*ratelimit.Rule, count)
	for i := range rules {
		rules[i] = &ratelimit.Rule{ID: ruleID(i), Leased: leased, Limit: ratelimit.Limit{
			Algorithm: ratelimit.FixedWindow, Requests: 4_000_000_000, Window: time.Hour,
		}}
	}
	return rules
}

func ownRequest(i, rules int) *rlsv3.RateLimitRequest {
	pair := rules / 4 // The same counters, however many rules there are.
	request := peerRequest(i)
	for j, d := range request.GetDescriptors() {
		limit := descriptor(envoyrls.LimitKey, fmt.Sprintf("bench/policy-%d/limit-%d", pair, j))
		d.Entries = append(limit.GetEntries(), d.GetEntries()...)
	}
	return request
}
