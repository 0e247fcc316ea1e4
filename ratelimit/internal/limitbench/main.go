// Command limitbench measures what a rate limit decision costs: CPU time of the
// server and of Redis for each call, with 64 in flight and two descriptors, beside
// envoyproxy/ratelimit and a gRPC server that does nothing, in the same run; and
// latency when all are asked at the same rate. Each server is a process of its
// own, so that the client's work is not counted. It needs Linux (CPU clocks of other
// processes) and
// redis-server, and builds envoyproxy/ratelimit once (bench/envoyratelimit).
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

func main() {
	serve := flag.String("serve", "", "be this server; for the program itself")
	redis := flag.String("redis", "", "URL of Redis; for the program itself")
	rules := flag.Int("rules", 2, "number of rules; for the program itself")
	calls := flag.Int("calls", 200_000, "calls of each kind")
	var which selection
	flag.Func("only", "measure the kinds whose name matches this `regexp`, and nothing else", which.match)
	flag.BoolVar(&which.cpuOnly, "cpu", false, "measure CPU of the first table, and nothing else: three minutes for a quick look")
	flag.StringVar(&which.beside, "beside", "", "measure those kinds of another build of this `program`, too, in turns")
	flag.StringVar(&which.picture, "svg", "", "draw the first table into this `file`, which is beside that of -out")
	out := flag.String("out", "", "write the table to this `file`, too")
	flag.Parse()
	if err := run(*serve, *redis, *rules, *calls, which, *out); err != nil {
		fmt.Fprintln(os.Stderr, "limitbench:", err)
		os.Exit(1)
	}
}

// selection is what of it all is measured; the zero value is everything.
type selection struct {
	names *regexp.Regexp
	// cpuOnly leaves latency out, and the cluster.
	cpuOnly bool
	// beside is another build of this program.
	beside string
	// picture is the file to draw the first table into; empty for none.
	picture string
}

func (s *selection) match(pattern string) (err error) {
	s.names, err = regexp.Compile(pattern)
	return err
}

func (s *selection) has(name string) bool { return s.names == nil || s.names.MatchString(name) }

func run(serve, redis string, rules, calls int, which selection, out string) error {
	if serve != "" {
		return child(serve, redis, rules)
	}
	dir, err := os.MkdirTemp("", "limitbench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if least := rounds * users; calls < least {
		return fmt.Errorf("-calls: must be %d or more, for each of %d turns to ask for every user", least, rounds)
	}
	table, picture, err := measureAll(dir, calls, which)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, table); err != nil {
		return err
	}
	for _, roundTrip := range roundTrips() {
		if which.cpuOnly {
			break
		}
		part, err := measureCluster(dir, roundTrip, max(calls/4, rounds*users), which)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(os.Stdout, part); err != nil {
			return err
		}
		table += part
	}
	page := heading
	if which.picture != "" {
		if err := write(which.picture, picture); err != nil {
			return err
		}
		page += "![CPU for each call](" + filepath.Base(which.picture) + ")\n\n"
	}
	if out == "" {
		return nil
	}
	return write(out, page+table)
}

// write makes a file of the documentation.
func write(file, text string) error {
	return os.WriteFile(filepath.Clean(file), []byte(text), 0o644) //nolint:gosec // for everybody to read
}

const heading = `# What a rate limit decision costs

Made by ` + "`go run ./internal/limitbench`" + ` in ratelimit; two descriptors for each call, 1,000 users, all in the same run on one machine, in turns, each server with a
Redis of its own. Compare within a table. No request is refused. Each server runs as it is delivered, Weir's from the same parts in a program of the
benchmark's, with timeouts that don't cut requests off: the one that does nothing and envoyproxy/ratelimit with Go's own settings of the garbage
collector, which they do not change, and Weir's with those that its daemons set themselves (kit/heap).

`

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

func kinds(which selection) (kinds []kind) {
	self := func(name, mode string, rules int, redis bool) {
		kinds = append(kinds, kind{name, func(dir string) (*running, error) { return startSelf(dir, "", mode, rules, redis) }})
		if which.beside != "" {
			kinds = append(kinds, kind{name + " (beside)", func(dir string) (*running, error) { return startSelf(dir, which.beside, mode, rules, redis) }})
		}
	}
	self(nothing, "noop", 2, false)
	kinds = append(kinds, kind{envoyproxy, startPeer}, kind{dropIn, startDropIn})
	self("`ratelimitd`, exact on Redis", "redis", 2, true)
	self("`ratelimitd`, exact on Redis, 10,000 rules", "redis", 10_000, true)
	self("`ratelimitd`, leased from Redis (10 users)", "leased", 2, true)
	self("`ratelimitd`, in memory", "memory", 2, false)
	self("`ratelimitd`, in memory, 10,000 rules", "memory", 10_000, false)
	return kinds
}

// rounds are the turns that each server has: a machine that is slower for a while
// is so for all of them. Two runs of eight longer turns differed by a tenth. Latency
// takes half a second of a turn for each pace, so every other has it.
const (
	rounds        = 40
	latencyEvery  = 2
	turnOfLatency = 500 * time.Millisecond
)

// Latency is measured when all are asked at the same rate: at calls a second, or at
// a part of what envoyproxy/ratelimit reaches in the run with inFlight calls under
// way, where calls is 0.
type pace struct {
	calls int
	part  float64
}

func paces() []pace {
	return []pace{
		{calls: 500},
		{calls: 4000}, // about half of what envoyproxy/ratelimit and the client can do on two cores
		{part: 0.8},
	}
}

func measureAll(dir string, calls int, which selection) (page, picture string, err error) {
	calls /= rounds
	var asked []pace
	if !which.cpuOnly {
		asked = paces()
	}
	err = measure(dir, kinds(which), calls, which, asked, func(subjects []*subject, asked []pace) {
		page, picture = costTable(subjects, calls*rounds), costPicture(subjects, calls*rounds)
		if len(asked) > 0 {
			page += latencyTable(subjects, asked)
		}
	})
	return page, picture, err
}

// measure starts the kinds, measures them in turns and tells done of them, before
// they are stopped, and of the paces, all with their calls.
func measure(dir string, kinds []kind, calls int, which selection, asked []pace, done func([]*subject, []pace)) error {
	var subjects []*subject
	defer func() {
		for _, s := range subjects {
			s.stop()
		}
	}()
	reached := 0.0
	for i, k := range kinds {
		if !which.has(k.name) {
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
		if k.name == envoyproxy {
			if reached, err = s.capacity(warming * calls); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	asked = known(asked, reached)
	for round := range rounds {
		paces := asked
		if round%latencyEvery > 0 {
			paces = nil
		}
		for _, s := range subjects {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, rounds, s.name)
			if err := s.round(calls, paces); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	done(subjects, asked)
	return nil
}

// known are the paces with their calls, in whole hundreds; without a peer there is
// none to take a part of.
func known(asked []pace, reached float64) (with []pace) {
	for _, p := range asked {
		if p.calls == 0 {
			p.calls = int(reached*p.part) / 100 * 100
		}
		if p.calls > 0 {
			with = append(with, p)
		}
	}
	return with
}

func costTable(subjects []*subject, calls int) string {
	page := &strings.Builder{}
	fmt.Fprintf(page, "## CPU, with %d calls in flight\n\n", inFlight)
	page.WriteString("| | server µs/call | Redis µs/call | together | × nothing | × envoyproxy |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	base, peer := together(subjects, nothing, calls), together(subjects, envoyproxy, calls)
	for _, s := range subjects {
		server, redis := s.cost(calls)
		together := server + redis
		fmt.Fprintf(page, "| %s | %.1f | %.1f | %.1f | %s | %s |\n", s.name, server, redis, together, times(together, base), times(together, peer))
	}
	return page.String()
}

// together is what a call took of the named server and its Redis, in µs; 0 if it was
// not measured.
func together(subjects []*subject, name string, calls int) float64 {
	for _, s := range subjects {
		if s.name == name {
			server, redis := s.cost(calls)
			return server + redis
		}
	}
	return 0
}

// costPicture marks what exact limits may cost beside envoyproxy/ratelimit.
func costPicture(subjects []*subject, calls int) string {
	const aim = 0.4
	var bars []bar
	for _, s := range subjects {
		server, redis := s.cost(calls)
		bars = append(bars, bar{s.name, server, redis})
	}
	return draw(bars, aim*together(subjects, envoyproxy, calls), fmt.Sprintf("%.1f of %s", aim, envoyproxy))
}

func latencyTable(subjects []*subject, asked []pace) string {
	page := &strings.Builder{}
	page.WriteString("\n## Latency, all asked at the same rate, whatever their answers take\n\n")
	fmt.Fprintf(page, "The middle one of %d turns' p50, and of their p99; a turn is %s.\n", rounds/latencyEvery, turnOfLatency)
	for _, p := range asked {
		if p.part > 0 {
			fmt.Fprintf(page, "The last rate is %.0f %% of what envoyproxy/ratelimit reached in this run with %d calls in flight.\n\n", 100*p.part, inFlight)
		}
	}
	page.WriteString("|")
	for _, p := range asked {
		fmt.Fprintf(page, " | %d/s: p50 µs | p99 µs | p99 × envoyproxy", p.calls)
	}
	page.WriteString(" |\n| ---" + strings.Repeat(" | ---: | ---: | ---:", len(asked)) + " |\n")
	peer := make([]float64, len(asked))
	for _, s := range subjects {
		for i := range asked {
			if s.name == envoyproxy {
				peer[i] = middle(s.latencies[i]).p99.Seconds()
			}
		}
	}
	for _, s := range subjects {
		fmt.Fprintf(page, "| %s", s.name)
		for i := range asked {
			took := middle(s.latencies[i])
			fmt.Fprintf(page, " | %d | %d | %s", took.p50.Microseconds(), took.p99.Microseconds(), times(took.p99.Seconds(), peer[i]))
		}
		page.WriteString(" |\n")
	}
	return page.String()
}

func times(value, base float64) string {
	if base == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", value/base)
}
