// Command authbench measures what a check costs the server: CPU time for each
// call with 64 in flight, beside a gRPC ext_authz server that always says yes, in
// the same run. Each server is a process of its own, so that the client's work is
// not counted. It needs Linux (/proc).
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/envoyauth"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/record"
	"weir.dev/extauthz/telemetry"
	"weir.dev/extauthz/token"
)

const (
	inFlight = 64
	ticks    = 100 // of /proc/PID/stat, each second; fixed on Linux
	// streamWorkers are the goroutines that extauthzd keeps for calls; see
	// kit/rpcserver.
	streamWorkers = 128
)

func main() {
	serve := flag.String("serve", "", "be this server (noop, kept or weir); for the program itself")
	keySet := flag.String("keys", "", "the provider's key set; for the program itself")
	many := flag.Bool("many", false, "100,000 API keys and 10,000 routes; for the program itself")
	calls := flag.Int("calls", 60_000, "calls of each kind")
	out := flag.String("out", "", "write the table to this `file`, too")
	flag.Parse()
	if err := run(*serve, *keySet, *many, *calls, *out); err != nil {
		fmt.Fprintln(os.Stderr, "authbench:", err)
		os.Exit(1)
	}
}

func run(serve, keySet string, many bool, calls int, out string) error {
	if serve != "" {
		return child(serve, keySet, many)
	}
	t := &testing.B{}
	ring := authtest.NewRing(t)
	keys := authtest.KeySet(t, ring.All()...)
	table := &strings.Builder{}
	for _, many := range []bool{false, true} {
		if err := measureAll(table, ring, keys, many, calls); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(os.Stdout, table.String()); err != nil {
		return err
	}
	if out == "" {
		return nil
	}
	page := "# What a check costs\n\nMade by `go run ./internal/authbench` in extauthz; server CPU for each call with 64 in flight, beside a gRPC ext_authz server that\nalways says yes, in the same run, in turns. Decisions are recorded; of metrics there are the server's own. Ours keeps goroutines for calls, as extauthzd\ndoes. Compare within the table.\n\n" + table.String()
	return os.WriteFile(filepath.Clean(out), []byte(page), 0o644) //nolint:gosec // a page of the documentation
}

// kind is one kind of call.
type kind struct {
	name, server string
	check        func(i int) *authv3.CheckRequest
}

func kinds(ring authtest.Ring) []kind {
	b := &testing.B{}
	fixed := func(route string, headers ...string) func(int) *authv3.CheckRequest {
		check := request(route, headers...)
		return func(int) *authv3.CheckRequest { return check }
	}
	cached := ring.RSA.Token(b, nil, claims(0))
	return []kind{
		{"a server that says yes", "noop", fixed("r1", "x-api-key", authtest.GoodKey)},
		{"the same, with goroutines kept for calls", "kept", fixed("r1", "x-api-key", authtest.GoodKey)},
		{"API key", "weir", fixed("r1", "x-api-key", authtest.GoodKey)},
		{"verified token, 5 rules", "weir", fixed("rules", "authorization", "Bearer "+cached)},
		{"first sight of an RS256 token", "weir", nil},
	}
}

func claims(i int) map[string]any {
	now := time.Now()
	return authtest.Claims(map[string]any{"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": strconv.Itoa(i)})
}

func request(route string, headers ...string) *authv3.CheckRequest {
	all := []string{":method", "GET", ":path", "/v1/users", ":authority", "api.example", "user-agent", "bench", "accept", "*/*"}
	for i := range 4 {
		all = append(all, fmt.Sprint("x-header-", i), "value")
	}
	return authtest.Check(route, append(all, headers...)...)
}

// rounds in which the kinds take turns, so that what else the machine does falls
// on all of them.
const rounds = 10

func measureAll(table *strings.Builder, ring authtest.Ring, keys string, many bool, calls int) error {
	size := "few keys and routes"
	if many {
		size = "100,000 API keys, 10,000 routes"
	}
	fmt.Fprintf(table, "## %s\n\n| check | CPU µs/call | × | resident MiB |\n| --- | ---: | ---: | ---: |\n", size)
	var subjects []*subject
	defer func() {
		for _, s := range subjects {
			s.stop()
		}
	}()
	for _, k := range kinds(ring) {
		n := calls / rounds
		if k.check == nil { // each token is a new one, and making them takes time
			n = min(n, 800)
			k.check = tokens(ring, n*(rounds+1))
		}
		s, err := start(k, keys, many, n)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		subjects = append(subjects, s)
	}
	for round := range rounds + 1 {
		for _, s := range subjects {
			if err := s.round(round); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	base := subjects[0].cost()
	for _, s := range subjects {
		fmt.Fprintf(table, "| %s | %.1f | %.2f | %.0f |\n", s.name, s.cost(), s.cost()/base, resident(s.server.Process.Pid))
	}
	table.WriteString("\n")
	return nil
}

func tokens(ring authtest.Ring, n int) func(int) *authv3.CheckRequest {
	checks := make([]*authv3.CheckRequest, n)
	var group sync.WaitGroup
	for part := range runtime.NumCPU() {
		group.Go(func() {
			for i := part; i < len(checks); i += runtime.NumCPU() {
				checks[i] = request("r1", "authorization", "Bearer "+ring.RSA.Token(&testing.B{}, nil, claims(i)))
			}
		})
	}
	group.Wait()
	return func(i int) *authv3.CheckRequest { return checks[i] }
}

// subject is a server that is measured.
type subject struct {
	kind
	n      int
	server *exec.Cmd
	conn   *grpc.ClientConn
	spent  float64 // seconds of CPU time, without the first round
}

func start(k kind, keys string, many bool, n int) (*subject, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &subject{kind: k, n: n}
	s.server = exec.CommandContext(context.Background(), self, "-serve", k.server, "-keys", keys, fmt.Sprint("-many=", many)) //nolint:gosec // this program
	s.server.Stderr = os.Stderr
	stdout, err := s.server.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.server.Start(); err != nil {
		return nil, err
	}
	var address string
	if _, err := fmt.Fscanln(stdout, &address); err != nil {
		s.stop()
		return nil, fmt.Errorf("the server did not start: %w", err)
	}
	if s.conn, err = grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *subject) stop() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	_ = s.server.Process.Kill()
	_ = s.server.Wait()
}

// round makes the calls of a round; the first is to warm up.
func (s *subject) round(round int) error {
	before := cpu(s.server.Process.Pid)
	if err := load(authv3.NewAuthorizationClient(s.conn), s.kind, round*s.n, s.n); err != nil {
		return err
	}
	if round > 0 {
		s.spent += cpu(s.server.Process.Pid) - before
	}
	return nil
}

// cost is the CPU time of a call in microseconds.
func (s *subject) cost() float64 { return s.spent / float64(rounds*s.n) * 1e6 }

func load(client authv3.AuthorizationClient, k kind, from, n int) error {
	var next, failed atomic.Int64
	var group sync.WaitGroup
	for range inFlight {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				answer, err := client.Check(ctx, k.check(from+int(i)))
				cancel()
				if err != nil || answer.GetOkResponse() == nil {
					failed.Add(1)
				}
			}
		})
	}
	group.Wait()
	if failed.Load() > 0 {
		return fmt.Errorf("%d of %d calls were not allowed", failed.Load(), n)
	}
	return nil
}

// cpu is a process's user and system time in seconds.
func cpu(pid int) float64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks
}

func resident(pid int) float64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(raw))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20)
}

type noop struct {
	authv3.UnimplementedAuthorizationServer
	answer *authv3.CheckResponse
}

func (n *noop) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return n.answer, nil
}

// child serves until its parent kills it.
func child(mode, keySet string, many bool) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.NumStreamWorkers(streamWorkers), grpc.ForceServerCodecV2(envoyauth.Codec()))
	if mode != "weir" {
		server = grpc.NewServer()
		if mode == "kept" {
			server = grpc.NewServer(grpc.NumStreamWorkers(streamWorkers))
		}
		answer := &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}
		authv3.RegisterAuthorizationServer(server, &noop{answer: answer})
	} else {
		rules, err := rulesOf(keySet, many)
		if err != nil {
			return err
		}
		own := envoyauth.NewServer(current{rules}, &authtest.Counter{}, slog.New(slog.NewJSONHandler(io.Discard, nil)), time.Now)
		metrics, err := telemetry.NewRecords(prometheus.NewRegistry())
		if err != nil {
			return err
		}
		keeper, err := record.NewKeeper(record.Options{Server: "bench", Recent: 1000, Events: metrics})
		if err != nil {
			return err
		}
		own.Keep(keeper)
		envoyauth.NewService(envoyauth.Limit(own, envoyauth.Limits{})).Register(server)
	}
	if _, err := fmt.Fprintln(os.Stdout, listener.Addr()); err != nil {
		return err
	}
	return server.Serve(listener)
}

type current struct{ rules *extauthz.Rules }

func (c current) Current() *extauthz.Rules { return c.rules }

func rulesOf(keySet string, many bool) (*extauthz.Rules, error) {
	verifiers, err := token.NewVerifiers(token.Options{})
	if err != nil {
		return nil, err
	}
	compiler, err := extauthz.NewCompiler(verifiers)
	if err != nil {
		return nil, err
	}
	provider := authtest.Provider(keySet)
	provider.Leeway = durationpb.New(time.Minute)
	jwt := authtest.JWT("jwt", provider)
	sources := map[string]*rulesv1.AuthRoute{"r1": authtest.Route("r1", authtest.APIKey(), jwt)}
	sources["rules"] = authtest.WithRules(authtest.Route("rules", authtest.APIKey(), jwt),
		authtest.Deny("internal", `request.path.startsWith("/internal/")`), authtest.Deny("suspended", `identity.tier == "suspended"`),
		authtest.Deny("network", `source.address == ip("192.0.2.1")`), authtest.Deny("writes", `request.method != "GET" && !("write" in identity.scopes)`),
		authtest.Allow("tenant", `identity.tenant == "acme"`))
	consumers := authtest.Consumers()
	consumers["default/shop"].ApiKeys[0].ExpireTime = nil
	if many {
		for i := range 10_000 {
			id := fmt.Sprint("route", i)
			sources[id] = authtest.WithRules(authtest.Route(id, authtest.APIKey(), jwt), authtest.Allow("tenant", fmt.Sprintf(`identity.tenant == "t%d"`, i%100)))
			consumer := &rulesv1.Consumer{Name: fmt.Sprint("default/c", i), Tenant: "t"}
			for j := range 10 {
				sum := sha256.Sum256(fmt.Appendf(nil, "key-%d-%d", i, j))
				consumer.ApiKeys = append(consumer.ApiKeys, &rulesv1.ApiKey{Name: fmt.Sprint("k", j), Sha256: sum[:]})
			}
			consumers[consumer.Name] = consumer
		}
	}
	routes, err := compiler.Routes(nil, sources)
	if err != nil {
		return nil, err
	}
	set, err := compiler.Consumers(consumers)
	if err != nil {
		return nil, err
	}
	return extauthz.NewRules(routes, set), nil
}
