package rpcserver

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var counted = map[string]grpc.ServiceInfo{"pkg.Echo": {Methods: []grpc.MethodInfo{
	{Name: "Say"}, {Name: "Watch", IsServerStream: true}, {Name: "Upload", IsClientStream: true}, {Name: "Chat", IsClientStream: true, IsServerStream: true},
}}}

// values are those of all series, by name, type, method and code; of a histogram
// how often it was told something.
func values(t *testing.T, collector prometheus.Collector) map[string]float64 {
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(collector))
	families, err := registry.Gather()
	require.NoError(t, err)
	all := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			label := map[string]string{}
			for _, pair := range metric.GetLabel() {
				label[pair.GetName()] = pair.GetValue()
			}
			require.Equal(t, "pkg.Echo", label["grpc_service"])
			name := family.GetName() + " " + label["grpc_type"] + " " + label["grpc_method"]
			if code := label["grpc_code"]; code != "" {
				name += " " + code
			}
			all[name] = metric.GetCounter().GetValue()
			if histogram := metric.GetHistogram(); histogram != nil {
				all[name] = float64(histogram.GetSampleCount())
			}
		}
	}
	return all
}

// scripted is a stream that receives so many messages, and sends any.
type scripted struct {
	grpc.ServerStream
	receives int
}

func (s *scripted) RecvMsg(any) error {
	if s.receives == 0 {
		return io.EOF
	}
	s.receives--
	return nil
}

func (*scripted) SendMsg(message any) error {
	if message == nil {
		return errors.New("nothing to send")
	}
	return nil
}

// answering has the handler see to calls.
func answering(ctx context.Context, _ time.Time, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	return handler(ctx, request)
}

func TestCallsAreCounted(t *testing.T) {
	answer := func(c *calls, method string, err error) {
		response, got := c.unary(answering)(t.Context(), "in", &grpc.UnaryServerInfo{FullMethod: method}, func(_ context.Context, request any) (any, error) { return request, err })
		require.Equal(t, "in", response)
		require.Equal(t, err, got)
	}
	converse := func(c *calls, method string, err error) {
		got := c.stream(nil, &scripted{receives: 3}, &grpc.StreamServerInfo{FullMethod: method}, func(_ any, stream grpc.ServerStream) error {
			for stream.RecvMsg(nil) == nil {
				require.NoError(t, stream.SendMsg("out"))
			}
			require.Error(t, stream.SendMsg(nil))
			return err
		})
		require.Equal(t, err, got)
	}
	for name, tc := range map[string]struct {
		call func(*calls)
		want map[string]float64 // what isn't 0
	}{
		"answered": {func(c *calls) { answer(c, "/pkg.Echo/Say", nil) }, map[string]float64{
			"grpc_server_started_total unary Say": 1, "grpc_server_msg_received_total unary Say": 1, "grpc_server_msg_sent_total unary Say": 1,
			"grpc_server_handled_total unary Say OK": 1, "grpc_server_handling_seconds unary Say": 1,
		}},
		"refused": {func(c *calls) { answer(c, "/pkg.Echo/Say", status.Error(codes.NotFound, "no")) }, map[string]float64{
			"grpc_server_started_total unary Say": 1, "grpc_server_msg_received_total unary Say": 1,
			"grpc_server_handled_total unary Say NotFound": 1, "grpc_server_handling_seconds unary Say": 1,
		}},
		"given up": {func(c *calls) { answer(c, "/pkg.Echo/Say", context.Canceled) }, map[string]float64{
			"grpc_server_started_total unary Say": 1, "grpc_server_msg_received_total unary Say": 1,
			"grpc_server_handled_total unary Say Canceled": 1, "grpc_server_handling_seconds unary Say": 1,
		}},
		"a code that gRPC has not": {func(c *calls) { answer(c, "/pkg.Echo/Say", status.Error(99, "?")) }, map[string]float64{
			"grpc_server_started_total unary Say": 1, "grpc_server_msg_received_total unary Say": 1,
			"grpc_server_handled_total unary Say Unknown": 1, "grpc_server_handling_seconds unary Say": 1,
		}},
		"a conversation": {func(c *calls) { converse(c, "/pkg.Echo/Chat", nil) }, map[string]float64{
			"grpc_server_started_total bidi_stream Chat": 1, "grpc_server_msg_received_total bidi_stream Chat": 3, "grpc_server_msg_sent_total bidi_stream Chat": 3,
			"grpc_server_handled_total bidi_stream Chat OK": 1, "grpc_server_handling_seconds bidi_stream Chat": 1,
		}},
		"a watch that fails": {func(c *calls) { converse(c, "/pkg.Echo/Watch", errors.New("broken")) }, map[string]float64{
			"grpc_server_started_total server_stream Watch": 1, "grpc_server_msg_received_total server_stream Watch": 3, "grpc_server_msg_sent_total server_stream Watch": 3,
			"grpc_server_handled_total server_stream Watch Unknown": 1, "grpc_server_handling_seconds server_stream Watch": 1,
		}},
		"methods that nobody registered": {func(c *calls) {
			answer(c, "/pkg.Echo/Shout", nil)
			converse(c, "/pkg.Other/Chat", nil)
		}, map[string]float64{}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCalls()
			c.know(counted)
			before := values(t, c)
			require.Len(t, before, 4*(4+17), "all series of all methods are there from the start")
			tc.call(c)
			after := values(t, c)
			require.Len(t, after, len(before), "and no others come")
			changed := map[string]float64{}
			for series, value := range after {
				require.Zero(t, before[series])
				if value != 0 {
					changed[series] = value
				}
			}
			require.Equal(t, tc.want, changed)
		})
	}
}

func TestCallsBeforeTheServerRunsAreAnswered(t *testing.T) {
	response, err := newCalls().unary(answering)(t.Context(), "in", &grpc.UnaryServerInfo{FullMethod: "/pkg.Echo/Say"}, func(_ context.Context, request any) (any, error) { return request, nil })
	require.NoError(t, err)
	require.Equal(t, "in", response)
}

func BenchmarkCounting(b *testing.B) {
	c := newCalls()
	c.know(counted)
	info := &grpc.UnaryServerInfo{FullMethod: "/pkg.Echo/Say"}
	handler := func(_ context.Context, request any) (any, error) { return request, nil }
	counting := c.unary(answering)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := counting(b.Context(), "in", info, handler); err != nil {
			b.Fatal(err)
		}
	}
}
