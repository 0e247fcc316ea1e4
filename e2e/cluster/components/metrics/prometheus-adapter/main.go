// Command prometheus-adapter serves the custom metrics API from Prometheus, by
// sigs.k8s.io/prometheus-adapter's own rules, queries and answers. Its last release
// is of 2024 and its main does not compile against the libraries of today's
// Kubernetes; this one does, and takes those of its flags that a test needs.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/pflag"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/logs"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"
	prom "sigs.k8s.io/prometheus-adapter/pkg/client"
	"sigs.k8s.io/prometheus-adapter/pkg/config"
	provider "sigs.k8s.io/prometheus-adapter/pkg/custom-provider"
	"sigs.k8s.io/prometheus-adapter/pkg/naming"
)

// requestTimeout bounds each question to Prometheus.
const requestTimeout = 10 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "prometheus-adapter:", err)
		os.Exit(1)
	}
}

func run() error {
	adapter := &cmd.AdapterBase{Name: "prometheus-adapter"}
	flags := adapter.Flags()
	address := flags.String("prometheus-url", "", "where Prometheus is")
	rules := flags.String("config", "", "file with the rules")
	relist := flags.Duration("metrics-relist-interval", time.Minute, "how often Prometheus is asked which series there are")
	logs.AddFlags(flags)
	if err := flags.Parse(os.Args[1:]); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return err
	}
	base, err := url.Parse(*address)
	if err != nil {
		return fmt.Errorf("--prometheus-url: %w", err)
	}
	discovery, err := config.FromFile(*rules)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	mapper, err := adapter.RESTMapper()
	if err != nil {
		return err
	}
	kube, err := adapter.DynamicClient()
	if err != nil {
		return err
	}
	namers, err := naming.NamersFromConfig(discovery.Rules, mapper)
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	ctx := genericapiserver.SetupSignalContext()
	client := timed{prom.NewGenericAPIClient(&http.Client{Timeout: requestTimeout}, base, nil)}
	metrics, lister := provider.NewPrometheusProvider(mapper, kube, prom.NewClientForAPI(client, http.MethodGet), namers, *relist, *relist)
	lister.RunUntil(ctx.Done())
	adapter.WithCustomMetrics(metrics)
	return adapter.Run(ctx)
}

// timed leaves the timeout of a question to the client: prometheus-adapter counts
// what is left of the context's deadline backwards, which was written as nothing by
// the libraries of its time and is refused as a negative duration now.
type timed struct{ prom.GenericAPIClient }

func (t timed) Do(ctx context.Context, verb, endpoint string, query url.Values) (prom.APIResponse, error) {
	query.Del("timeout")
	return t.GenericAPIClient.Do(ctx, verb, endpoint, query)
}
