package rpcserver

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxCode is the last of the status codes that gRPC has.
const maxCode = codes.Unauthenticated

// calls counts and times calls, under the names that go-grpc-middleware gave to
// the metrics of gRPC servers, so that dashboards made for those do. It finds the
// series of a method once: looking each of them up for each call is a twentieth of
// a short call's work. Safe for concurrent use.
type calls struct {
	started, handled, received, sent *prometheus.CounterVec
	seconds                          *prometheus.HistogramVec
	// methods are the registered ones, by full name.
	methods atomic.Pointer[map[string]*methodCalls]
}

// methodCalls are the series of one method.
type methodCalls struct {
	started, received, sent prometheus.Counter
	handled                 [maxCode + 1]prometheus.Counter // by code
	seconds                 prometheus.Observer
}

func newCalls() *calls {
	method := []string{"grpc_type", "grpc_service", "grpc_method"}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "grpc_server_" + name, Help: help}, append(method, labels...))
	}
	return &calls{
		started:  counter("started_total", "Total number of RPCs started on the server."),
		handled:  counter("handled_total", "Total number of RPCs completed on the server, regardless of success or failure.", "grpc_code"),
		received: counter("msg_received_total", "Total number of RPC stream messages received on the server."),
		sent:     counter("msg_sent_total", "Total number of gRPC stream messages sent by the server."),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "grpc_server_handling_seconds",
			Help:    "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, method),
	}
}

func (c *calls) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.started, c.handled, c.received, c.sent, c.seconds}
}

// Describe implements prometheus.Collector.
func (c *calls) Describe(into chan<- *prometheus.Desc) {
	for _, each := range c.collectors() {
		each.Describe(into)
	}
}

// Collect implements prometheus.Collector.
func (c *calls) Collect(into chan<- prometheus.Metric) {
	for _, each := range c.collectors() {
		each.Collect(into)
	}
}

// know makes the series of all methods, at 0. Methods that it was not told of are
// not counted.
func (c *calls) know(services map[string]grpc.ServiceInfo) {
	methods := map[string]*methodCalls{}
	for service, info := range services {
		for _, method := range info.Methods {
			labels := []string{typeOf(method), service, method.Name}
			series := &methodCalls{
				started: c.started.WithLabelValues(labels...), received: c.received.WithLabelValues(labels...),
				sent: c.sent.WithLabelValues(labels...), seconds: c.seconds.WithLabelValues(labels...),
			}
			for code := range series.handled {
				series.handled[code] = c.handled.WithLabelValues(append(labels, codes.Code(code).String())...) //nolint:gosec // the index of an array
			}
			methods["/"+service+"/"+method.Name] = series
		}
	}
	c.methods.Store(&methods)
}

func typeOf(method grpc.MethodInfo) string {
	switch {
	case method.IsClientStream && method.IsServerStream:
		return "bidi_stream"
	case method.IsClientStream:
		return "client_stream"
	case method.IsServerStream:
		return "server_stream"
	}
	return "unary"
}

func (c *calls) of(fullMethod string) *methodCalls {
	methods := c.methods.Load()
	if methods == nil {
		return nil
	}
	return (*methods)[fullMethod]
}

// timedUnary is an interceptor that is told when the call began.
type timedUnary func(ctx context.Context, started time.Time, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error)

// unary makes an interceptor that counts calls and has next see to them, so that
// there is one: gRPC's chain of two makes a closure for every call.
func (c *calls) unary(next timedUnary) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		started := time.Now()
		series := c.of(info.FullMethod)
		if series == nil {
			return next(ctx, started, request, info, handler)
		}
		series.started.Inc()
		series.received.Inc()
		response, err := next(ctx, started, request, info, handler)
		if err == nil {
			series.sent.Inc()
		}
		series.ended(err, started)
		return response, err
	}
}

func (c *calls) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	series := c.of(info.FullMethod)
	if series == nil {
		return handler(server, stream)
	}
	started := time.Now()
	series.started.Inc()
	err := handler(server, &countedStream{ServerStream: stream, series: series})
	series.ended(err, started)
	return err
}

func (m *methodCalls) ended(err error, started time.Time) {
	code := codes.OK
	if err != nil {
		described, coded := status.FromError(err)
		if !coded {
			described = status.FromContextError(err)
		}
		if code = described.Code(); code > maxCode {
			code = codes.Unknown
		}
	}
	m.handled[code].Inc()
	m.seconds.Observe(time.Since(started).Seconds())
}

// countedStream counts the messages of a stream.
type countedStream struct {
	grpc.ServerStream
	series *methodCalls
}

// RecvMsg implements grpc.ServerStream.
func (s *countedStream) RecvMsg(message any) error {
	err := s.ServerStream.RecvMsg(message)
	if err == nil {
		s.series.received.Inc()
	}
	return err
}

// SendMsg implements grpc.ServerStream.
func (s *countedStream) SendMsg(message any) error {
	err := s.ServerStream.SendMsg(message)
	if err == nil {
		s.series.sent.Inc()
	}
	return err
}
