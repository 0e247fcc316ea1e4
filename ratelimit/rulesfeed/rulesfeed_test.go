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
	"weir.dev/ratelimit/store/memory"
)

func good(id string) *rulesv1.RateLimitRule {
	return &rulesv1.RateLimitRule{
		Id: id, Algorithm: rulesv1.RateLimitRule_ALGORITHM_GCRA, Requests: 10, Burst: 5, Window: durationpb.New(time.Minute),
		FailureMode: rulesv1.FailureMode_FAILURE_MODE_OPEN, Shadow: true, Digest: "d",
		Tiers: map[string]*rulesv1.TierLimit{"gold": {Requests: 100}},
	}
}

func byDay(rule *rulesv1.RateLimitRule) {
	rule.Calendar, rule.Window = rulesv1.RateLimitRule_CALENDAR_DAY, nil
}

func TestDecodeTakesAllThatRulesSay(t *testing.T) {
	message := &rulesv1.RateLimitRule{
		Id: "x", Algorithm: rulesv1.RateLimitRule_ALGORITHM_FIXED_WINDOW, Requests: 5, TimeZone: "Europe/Berlin",
		Calendar: rulesv1.RateLimitRule_CALENDAR_WEEK, Cost: &rulesv1.LimitCost{Number: 2, Max: 9, Settles: true}, CountRefused: true,
		Reserves: []*rulesv1.LimitReserve{{Tier: "gold", Percent: 30}}, MaxOverride: 7, Tiers: map[string]*rulesv1.TierLimit{"gold": {Unlimited: true}},
	}
	table, err := rulesfeed.Decode(set(t, map[string]proto.Message{"x": message}))
	require.NoError(t, err)
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	require.Equal(t, &ratelimit.Rule{
		ID: "x", Limit: ratelimit.Limit{
			Algorithm: ratelimit.FixedWindow, Requests: 5, Window: 7 * 24 * time.Hour, Calendar: ratelimit.Week, Zone: berlin,
		},
		Cost: ratelimit.Cost{Number: 2, Max: 9, Settles: true}, CountRefused: true, MaxOverride: 7,
		Reserves: []ratelimit.Reserve{{Tier: "gold", Percent: 30}}, Tiers: map[string]ratelimit.TierNumbers{"gold": {Unlimited: true}},
	}, table.Rule("x"))
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
		"another id":         {func(r *rulesv1.RateLimitRule) { r.Id = "y" }, `"x": id:`},
		"no algorithm":       {func(r *rulesv1.RateLimitRule) { r.Algorithm = 0 }, `"x": algorithm:`},
		"new algorithm":      {func(r *rulesv1.RateLimitRule) { r.Algorithm = 77 }, `"x": algorithm:`},
		"new mode":           {func(r *rulesv1.RateLimitRule) { r.FailureMode = 77 }, `"x": failure_mode:`},
		"no window":          {func(r *rulesv1.RateLimitRule) { r.Window = nil }, `"x": window:`},
		"absurd window":      {func(r *rulesv1.RateLimitRule) { r.Window = &durationpb.Duration{Seconds: 1 << 62} }, `"x": window:`},
		"negative":           {func(r *rulesv1.RateLimitRule) { r.Window = durationpb.New(-time.Second) }, `"x": window:`},
		"endless burst":      {func(r *rulesv1.RateLimitRule) { r.Burst = 1<<32 - 1; r.Window = durationpb.New(time.Hour) }, `"x": burst:`},
		"cost without bound": {func(r *rulesv1.RateLimitRule) { r.Cost = &rulesv1.LimitCost{Number: 1} }, `"x": cost.max:`},
		"cost above bound":   {func(r *rulesv1.RateLimitRule) { r.Cost = &rulesv1.LimitCost{Number: 3, Max: 2} }, `"x": cost:`},
		"no expression":      {func(r *rulesv1.RateLimitRule) { r.Cost = &rulesv1.LimitCost{Max: 2, Expression: "request.x"} }, `"x": cost.expression: at 1:8`},
		"zone of nothing":    {func(r *rulesv1.RateLimitRule) { r.TimeZone = "UTC" }, `"x": time_zone:`},
		"unknown zone":       {func(r *rulesv1.RateLimitRule) { byDay(r); r.TimeZone = "Mars/Olympus" }, `"x": time_zone:`},
		"this host's zone":   {func(r *rulesv1.RateLimitRule) { byDay(r); r.TimeZone = "Local" }, `"x": time_zone:`},
		"zone out of a file": {func(r *rulesv1.RateLimitRule) { byDay(r); r.TimeZone = "../../etc/passwd" }, `"x": time_zone:`},
		"two windows":        {func(r *rulesv1.RateLimitRule) { byDay(r); r.Window = durationpb.New(time.Hour) }, `"x": window:`},
		"new calendar":       {func(r *rulesv1.RateLimitRule) { r.Calendar = 77 }, `"x": calendar:`},
		"calendar of a rate": {func(r *rulesv1.RateLimitRule) { byDay(r) }, `"x": calendar:`},
		"all is kept": {func(r *rulesv1.RateLimitRule) {
			r.Reserves = []*rulesv1.LimitReserve{{Tier: "a", Percent: 60}, {Tier: "b", Percent: 40}}
		}, `"x": reserves:`},
		"nothing is kept": {func(r *rulesv1.RateLimitRule) { r.Reserves = []*rulesv1.LimitReserve{{Tier: "a"}} }, `"x": reserves[0]:`},
		"refused places": {func(r *rulesv1.RateLimitRule) {
			r.Algorithm, r.Burst, r.CountRefused = rulesv1.RateLimitRule_ALGORITHM_CONCURRENCY, 0, true
		}, `"x": countRefused:`},
		"settled places": {func(r *rulesv1.RateLimitRule) {
			r.Algorithm, r.Burst, r.Cost = rulesv1.RateLimitRule_ALGORITHM_CONCURRENCY, 0, &rulesv1.LimitCost{Max: 1, Settles: true}
		}, `"x": cost:`},
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

// FuzzDecodedRulesDecide: whatever comes as rules is refused with an error or becomes a table
// that decides.
func FuzzDecodedRulesDecide(f *testing.F) {
	seed := func(message *rulesv1.RateLimitRule) {
		raw, err := proto.Marshal(message)
		require.NoError(f, err)
		f.Add(raw, "weir.cost", "7")
	}
	seed(&rulesv1.RateLimitRule{Id: "a", Algorithm: rulesv1.RateLimitRule_ALGORITHM_SLIDING_WINDOW, Requests: 5, Window: durationpb.New(time.Second)})
	seed(&rulesv1.RateLimitRule{Id: "a", Algorithm: rulesv1.RateLimitRule_ALGORITHM_CONCURRENCY, Requests: 5, Window: durationpb.New(time.Minute)})
	seed(&rulesv1.RateLimitRule{
		Id: "a", Algorithm: rulesv1.RateLimitRule_ALGORITHM_FIXED_WINDOW, Requests: 5, Calendar: rulesv1.RateLimitRule_CALENDAR_MONTH, TimeZone: "Asia/Beirut",
		Cost: &rulesv1.LimitCost{Number: 2, Max: 9, Settles: true}, Reserves: []*rulesv1.LimitReserve{{Tier: "gold", Percent: 30}}, MaxOverride: 7,
		Tiers: map[string]*rulesv1.TierLimit{"gold": {Unlimited: true}, "tin": {Requests: 1}}, CountRefused: true,
	})
	seed(&rulesv1.RateLimitRule{Id: "a", Algorithm: rulesv1.RateLimitRule_ALGORITHM_GCRA, Requests: 1 << 31, Burst: 1, Window: durationpb.New(time.Hour)})
	f.Fuzz(func(t *testing.T, raw []byte, name, value string) {
		table, err := rulesfeed.Decode(map[string]*anypb.Any{"a": {TypeUrl: rulesfeed.TypeURL, Value: raw}})
		if err != nil {
			return
		}
		store, err := memory.New(memory.Options{MaxKeys: memory.MinKeys})
		require.NoError(t, err)
		limiter := ratelimit.NewLimiter(store, nil)
		limiter.SetTable(table)
		ask := []ratelimit.Descriptor{{Rule: "a", Cost: 1, Entries: []ratelimit.Entry{{Name: name, Value: value}}}}
		for range 3 {
			verdict, err := limiter.Decide(t.Context(), ask)
			require.NoError(t, err)
			require.GreaterOrEqual(t, verdict.Statuses[0].Decision.RetryAfter, time.Duration(0))
			require.GreaterOrEqual(t, verdict.Statuses[0].Decision.Reset, time.Duration(0))
		}
	})
}
