package main

import (
	"encoding/json"
	"expvar"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"weir.dev/ratelimit/erconfig"
)

// maxJSONBytes bounds the body of a request to /json.
const maxJSONBytes = 1 << 20

// newHTTPServer makes a server that no slow client can hold.
func newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 90 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
}

func (s *server) public() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/json", s.json)
	mux.HandleFunc("/healthcheck", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, "OK")
	})
	return mux
}

// json is the service for clients without gRPC: 200, or 429 over the limit.
func (s *server) json(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSONBytes))
	request := &rlsv3.RateLimitRequest{}
	if err == nil {
		err = protojson.Unmarshal(body, request)
	}
	if err != nil {
		http.Error(w, "the body is not a RateLimitRequest in JSON: "+err.Error(), http.StatusBadRequest)
		return
	}
	response, err := s.service.ShouldRateLimit(r.Context(), request)
	switch {
	case status.Code(err) == codes.Unavailable:
		http.Error(w, status.Convert(err).Message(), http.StatusServiceUnavailable)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	raw, err := protojson.Marshal(response)
	if err != nil {
		http.Error(w, "the answer cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if response.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_, _ = w.Write(raw)
}

// endpoint is a path of the debug port with what the list of paths says of it.
type endpoint struct {
	path, help string
	handle     http.HandlerFunc
}

// debug is for operators: the configuration in effect, metrics and profiles. As
// in envoyproxy/ratelimit, a path that is not known answers with those that are.
func (s *server) debug() http.Handler {
	endpoints := []endpoint{
		{"/debug/pprof/", "profiles; it lists them", pprof.Index},
		{"/debug/pprof/cmdline", "the command line", pprof.Cmdline},
		{"/debug/pprof/profile", "CPU profile; ?seconds=30", pprof.Profile},
		{"/debug/pprof/symbol", "names of program counters", pprof.Symbol},
		{"/debug/pprof/trace", "execution trace; ?seconds=1", pprof.Trace},
		{"/metrics", "metrics in Prometheus' format", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}).ServeHTTP},
		{"/rlconfig", "the configuration in effect; ?format=json", s.rlconfig},
		{"/stats", "command line and memory of the process", stats},
	}
	mux := http.NewServeMux()
	var list strings.Builder
	for _, one := range endpoints {
		mux.HandleFunc(one.path, one.handle)
		fmt.Fprintf(&list, "%s: %s\n", one.path, one.help)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, list.String()) })
	return mux
}

// stats prints the variables of package expvar, a line each, which is what
// envoyproxy/ratelimit has under this name; its metrics are not among them.
func stats(w http.ResponseWriter, _ *http.Request) {
	expvar.Do(func(variable expvar.KeyValue) { fmt.Fprintf(w, "%s: %s\n", variable.Key, variable.Value) })
}

func (s *server) rlconfig(w http.ResponseWriter, r *http.Request) {
	config := s.config.Load()
	if config == nil {
		http.Error(w, "no configuration is loaded", http.StatusServiceUnavailable)
		return
	}
	if r.URL.Query().Get("format") == "json" {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(config.Limits())
		return
	}
	writeConfig(w, config)
}

// writeConfig lists limits, a line each, in the form of envoyproxy/ratelimit.
func writeConfig(w io.Writer, config *erconfig.Config) {
	for _, limit := range config.Limits() {
		fmt.Fprintf(w, "%s: unit=%s requests_per_unit=%d, shadow_mode: %t, quota_mode: %t\n",
			limit.Path, strings.ToUpper(limit.Unit.String()), limit.RequestsPerUnit, limit.Shadow, limit.Quota)
	}
}
