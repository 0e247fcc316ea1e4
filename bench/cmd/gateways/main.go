// Command gateways measures how long a changed route takes from its file's rename
// to its first 200, in Weir and in Envoy Gateway, one after the other on the same
// routes, the same Envoy and the same machine, idle and while ten other routes a
// second change.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

type options struct {
	weir, gateway, envoy, version string
	routes, changes               int
	most                          time.Duration
	table, svg                    string
}

// row is one product's results.
type row struct {
	name          string
	start         time.Duration
	memory        int
	cpu           time.Duration
	idle, churned *phase
}

func main() {
	var o options
	flag.StringVar(&o.weir, "weir", "bin/weir", "the weir `executable`")
	flag.StringVar(&o.gateway, "envoy-gateway", "", "the envoy-gateway `executable`; empty measures Weir alone")
	flag.StringVar(&o.envoy, "envoy", "", "the Envoy `executable` that both run")
	flag.StringVar(&o.version, "envoy-version", "1.40.0", "its version")
	flag.IntVar(&o.routes, "routes", 5000, "how many routes there are")
	flag.IntVar(&o.changes, "changes", 100, "how many changes are timed in each condition")
	flag.DurationVar(&o.most, "most", 60*time.Second, "how long one change may take")
	flag.StringVar(&o.table, "table", "", "`file` for the table")
	flag.StringVar(&o.svg, "svg", "", "`file` for the picture")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "gateways:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "  "+format+"\n", args...) }

func run(ctx context.Context, o options) error {
	work, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	backend, err := echo(ctx)
	if err != nil {
		return err
	}
	var rows []row
	starters := []func() (*product, error){func() (*product, error) {
		return startWeir(ctx, o.weir, work, backend, o.routes)
	}}
	if o.gateway != "" {
		starters = append(starters, func() (*product, error) {
			return startGateway(ctx, o.gateway, o.envoy, o.version, work, backend, o.routes)
		})
	}
	for _, start := range starters {
		measured, err := measure(ctx, o, start)
		if err != nil {
			return err
		}
		rows = append(rows, measured)
	}
	text := render(o, rows)
	fmt.Println("\n" + text)
	return write(o, rows, text)
}

// echo is the backend of every route.
func echo(ctx context.Context) (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	server := &http.Server{ReadHeaderTimeout: requestTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP address")
	}
	return address.Port, nil
}

func measure(ctx context.Context, o options, start func() (*product, error)) (row, error) {
	began := time.Now()
	p, err := start()
	if p != nil {
		defer p.stop()
	}
	if err != nil {
		return row{}, err
	}
	prober := newProber(p.port)
	last := fmt.Sprintf("/r/%05d", o.routes-1)
	if _, served := prober.await(ctx, last, 5*time.Minute); !served {
		return row{}, fmt.Errorf("%s does not serve its %d routes within 5 minutes", p.name, o.routes)
	}
	result := row{name: p.name, start: time.Since(began)}
	progress("%s serves %d routes after %s", p.name, o.routes, result.start.Round(time.Millisecond))
	_, before := memory(p.control)
	if result.idle, err = changes(ctx, p.dialect, p.dir, prober, "idle", o.routes, o.changes, o.most); err != nil {
		return row{}, err
	}
	_, after := memory(p.control)
	result.cpu = (after - before) / time.Duration(o.changes)
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() { churn(p.dialect, p.dir, stop) })
	result.churned, err = changes(ctx, p.dialect, p.dir, prober, "churn", o.routes, o.changes, o.most)
	close(stop)
	group.Wait()
	result.memory, _ = memory(p.control)
	return result, err
}

func render(o options, rows []row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d routes, %d timed changes in each condition; from the file's rename to the first 200.\n\n", o.routes, o.changes)
	b.WriteString("| | cold start | idle p50 | idle p99 | 10 changes/s p50 | p99 | failed of load | failed after first 200 | not served | memory | CPU a change |\n")
	b.WriteString("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %d of %d | %d | %d | %d MiB | %s |\n", r.name, round(r.start),
			round(r.idle.quantile(0.5)), round(r.idle.quantile(0.99)), round(r.churned.quantile(0.5)), round(r.churned.quantile(0.99)),
			r.idle.Failed+r.churned.Failed, r.idle.Requests+r.churned.Requests, r.idle.Late+r.churned.Late, r.idle.TimedOut+r.churned.TimedOut,
			r.memory, round(r.cpu))
	}
	if len(rows) == 2 && len(rows[1].churned.Latencies) > 0 {
		ratio := func(q float64, of func(row) *phase) float64 {
			return float64(of(rows[1]).quantile(q)) / float64(max(1, of(rows[0]).quantile(q)))
		}
		idle, churned := func(r row) *phase { return r.idle }, func(r row) *phase { return r.churned }
		fmt.Fprintf(&b, "\n%s takes %.1f times as long at the median when idle (p99: %.1f), %.1f times while routes change (p99: %.1f), and %.1f times the CPU a change.\n",
			rows[1].name, ratio(0.5, idle), ratio(0.99, idle), ratio(0.5, churned), ratio(0.99, churned),
			float64(rows[1].cpu)/float64(max(1, rows[0].cpu)))
	}
	return b.String()
}

func round(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func write(o options, rows []row, text string) error {
	if o.table == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(o.table), 0o755); err != nil { //nolint:gosec // documentation
		return err
	}
	title, how := "Changed routes", "Made by `make bench`: routes from a folder through the real Envoy, with 200 requests a second on unchanged routes meanwhile."
	if len(rows) > 1 {
		title += ", beside Envoy Gateway"
		how += " Both control planes run one after the other on one machine, each with the same Envoy and the same routes; Envoy Gateway in its standalone mode, built from its public Go module; that mode stores every object anew on each change, and says nothing of its Kubernetes mode."
	}
	page := "# " + title + "\n\n" + how + " Compare within the table, not across machines.\n\n![changed routes](" + filepath.Base(o.svg) + ")\n\n" + text
	if err := os.WriteFile(o.table, []byte(page), 0o644); err != nil { //nolint:gosec // documentation
		return err
	}
	return os.WriteFile(o.svg, []byte(draw(rows)), 0o644) //nolint:gosec // documentation
}
