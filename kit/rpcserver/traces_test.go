package rpcserver_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"weir.dev/kit/rpcserver"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	parent  = "00-" + traceID + "-b7ad6b7169203331-01"
)

// With a provider of spans each call has one, which continues the caller's trace.
func TestCallsAreSpansWhereTracesAreExported(t *testing.T) {
	before, propagator := otel.GetTracerProvider(), otel.GetTextMapPropagator()
	t.Cleanup(func() { otel.SetTracerProvider(before); otel.SetTextMapPropagator(propagator) })
	otel.SetTextMapPropagator(propagation.TraceContext{})

	spans := tracetest.NewSpanRecorder()
	callOnce(t)
	require.Empty(t, spans.Ended(), "the control: nobody asked for spans")
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	callOnce(t)
	require.Eventually(t, func() bool { return len(spans.Ended()) == 1 }, time.Minute, 5*time.Millisecond)
	require.Equal(t, "grpc.health.v1.Health/Check", spans.Ended()[0].Name())
	require.Equal(t, traceID, spans.Ended()[0].SpanContext().TraceID().String())
}

func callOnce(t *testing.T) {
	t.Helper()
	var cfg rpcserver.Config
	cfg.SetDefaults()
	cfg.Listen, cfg.Plaintext = "127.0.0.1:0", true
	server, err := rpcserver.New(cfg, rpcserver.Options{Name: "test", Quiet: true, Anonymous: true})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() {
		stop()
		require.NoError(t, <-done)
	}()
	conn, err := grpc.NewClient(server.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = healthpb.NewHealthClient(conn).Check(metadata.AppendToOutgoingContext(ctx, "traceparent", parent), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	require.NoError(t, err)
}
