package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
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

// debug is for operators: the configuration in effect, metrics and profiles.
func (s *server) debug() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/rlconfig", func(w http.ResponseWriter, r *http.Request) {
		config := s.config.Load()
		if config == nil {
			http.Error(w, "no configuration is loaded", http.StatusServiceUnavailable)
			return
		}
		writeConfig(w, config, r.URL.Query().Get("format") == "json")
	})
	mux.Handle("/stats", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "/rlconfig: the configuration in effect; ?format=json\n/stats: metrics, for Prometheus\n/debug/pprof/: profiles\n")
	})
	return mux
}

// writeConfig lists limits, a line each, in the form of envoyproxy/ratelimit.
func writeConfig(w io.Writer, config *erconfig.Config, asJSON bool) {
	if asJSON {
		_ = json.NewEncoder(w).Encode(config.Limits())
		return
	}
	for _, limit := range config.Limits() {
		fmt.Fprintf(w, "%s: unit=%s requests_per_unit=%d, shadow_mode: %t, quota_mode: %t\n",
			limit.Path, limit.Unit, limit.RequestsPerUnit, limit.Shadow, limit.Quota)
	}
}
