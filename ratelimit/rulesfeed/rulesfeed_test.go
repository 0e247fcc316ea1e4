package rulesfeed_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/rulesfeed"
)

func good(id string) *rulesv1.RateLimitRule {
	return &rulesv1.RateLimitRule{
		Id: id, Algorithm: rulesv1.RateLimitRule_ALGORITHM_GCRA, Requests: 10, Burst: 5, Window: durationpb.New(time.Minute),
		FailureMode: rulesv1.FailureMode_FAILURE_MODE_OPEN, Shadow: true, Digest: "d",
		Tiers: map[string]*rulesv1.TierLimit{"gold": {Requests: 100}},
	}
}

func set(t testing.TB, messages map[string]proto.Message) map[string]*anypb.Any {
	resources := map[string]*anypb.Any{}
	for name, message := range messages {
		body, err := anypb.New(message)
		require.NoError(t, err)
		resources[name] = body
	}
	return resources
}

func TestDecode(t *testing.T) {
	fixed := &rulesv1.RateLimitRule{Id: "f", Algorithm: rulesv1.RateLimitRule_ALGORITHM_FIXED_WINDOW, Window: durationpb.New(time.Second)}
	table, err := rulesfeed.Decode(set(t, map[string]proto.Message{"g": good("g"), "f": fixed}))
	require.NoError(t, err)
	require.Equal(t, 2, table.Len())
	require.Equal(t, &ratelimit.Rule{
		ID: "g", Limit: ratelimit.Limit{Algorithm: ratelimit.GCRA, Requests: 10, Burst: 5, Window: time.Minute},
		FailureMode: ratelimit.FailOpen, Shadow: true, Digest: "d", Tiers: map[string]ratelimit.TierNumbers{"gold": {Requests: 100}},
	}, table.Rule("g"))
	require.Equal(t, ratelimit.FailClosed, table.Rule("f").FailureMode, "open only when somebody wrote so")
	empty, err := rulesfeed.Decode(nil)
	require.NoError(t, err)
	require.Zero(t, empty.Len())
}

func TestDecodeNamesEveryBadResource(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*rulesv1.RateLimitRule)
		want   string
	}{
		"another id":     {func(r *rulesv1.RateLimitRule) { r.Id = "y" }, `"x": id:`},
		"no algorithm":   {func(r *rulesv1.RateLimitRule) { r.Algorithm = 0 }, `"x": algorithm:`},
		"new algorithm":  {func(r *rulesv1.RateLimitRule) { r.Algorithm = 77 }, `"x": algorithm:`},
		"new mode":       {func(r *rulesv1.RateLimitRule) { r.FailureMode = 77 }, `"x": failure_mode:`},
		"no window":      {func(r *rulesv1.RateLimitRule) { r.Window = nil }, `"x": window:`},
		"absurd window":  {func(r *rulesv1.RateLimitRule) { r.Window = &durationpb.Duration{Seconds: 1 << 62} }, `"x": window:`},
		"negative":       {func(r *rulesv1.RateLimitRule) { r.Window = durationpb.New(-time.Second) }, `"x": window:`},
		"endless burst":  {func(r *rulesv1.RateLimitRule) { r.Burst = 1<<32 - 1; r.Window = durationpb.New(time.Hour) }, `"x": burst:`},
		"a tier's burst": {func(r *rulesv1.RateLimitRule) { r.Tiers["a"] = &rulesv1.TierLimit{Requests: 1, Burst: 1 << 31} }, `tiers["a"]: burst:`},
	} {
		t.Run(name, func(t *testing.T) {
			bad := good("x")
			tc.change(bad)
			table, err := rulesfeed.Decode(set(t, map[string]proto.Message{"ok": good("ok"), "x": bad, "z": wrapperspb.Bool(true)}))
			require.Nil(t, table)
			require.ErrorContains(t, err, tc.want)
			require.ErrorContains(t, err, `"z": is not a RateLimitRule`, "all mistakes at once")
		})
	}
	_, err := rulesfeed.Decode(map[string]*anypb.Any{"nil": nil})
	require.ErrorContains(t, err, `"nil"`)
}

func FuzzDecode(f *testing.F) {
	raw, err := proto.Marshal(good("x"))
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		table, err := rulesfeed.Decode(map[string]*anypb.Any{"x": {TypeUrl: rulesfeed.TypeURL, Value: raw}})
		require.NotEqual(t, err == nil, table == nil)
		if table != nil {
			require.NoError(t, table.Rule("x").Validate())
		}
	})
}
