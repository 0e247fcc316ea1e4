package ratelimit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
)

func rule(id string, change ...func(*ratelimit.Rule)) *ratelimit.Rule {
	rule := &ratelimit.Rule{ID: id, Limit: ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 2, Window: time.Minute}}
	for _, apply := range change {
		apply(rule)
	}
	return rule
}

func TestRuleValidate(t *testing.T) {
	require.NoError(t, rule("a/b/c").Validate())
	for name, tc := range map[string]struct {
		change func(*ratelimit.Rule)
		want   string
	}{
		"no id":             {func(r *ratelimit.Rule) { r.ID = "" }, "id:"},
		"a space":           {func(r *ratelimit.Rule) { r.ID = "a b" }, "id:"},
		"a line break":      {func(r *ratelimit.Rule) { r.ID = "a\r\nb" }, "id:"},
		"not ASCII":         {func(r *ratelimit.Rule) { r.ID = "ä" }, "id:"},
		"long id":           {func(r *ratelimit.Rule) { r.ID = strings.Repeat("a", 513) }, "id:"},
		"no algorithm":      {func(r *ratelimit.Rule) { r.Algorithm = 0 }, "algorithm:"},
		"unknown algorithm": {func(r *ratelimit.Rule) { r.Algorithm = 9 }, "algorithm:"},
		"no window":         {func(r *ratelimit.Rule) { r.Window = 0 }, "window:"},
		"short window":      {func(r *ratelimit.Rule) { r.Window = time.Millisecond }, "window:"},
		"long window":       {func(r *ratelimit.Rule) { r.Window = 367 * 24 * time.Hour }, "window:"},
		"odd window":        {func(r *ratelimit.Rule) { r.Window = time.Second + 1 }, "window:"},
		"fixed with burst":  {func(r *ratelimit.Rule) { r.Burst = 1 }, "burst:"},
		"endless backlog": {func(r *ratelimit.Rule) {
			r.Algorithm, r.Requests, r.Burst, r.Window = ratelimit.GCRA, 1, 4_000_000_000, 24*time.Hour
		}, "burst:"},
		"bad tier": {func(r *ratelimit.Rule) {
			r.Tiers = map[string]ratelimit.TierNumbers{"gold": {Requests: 1, Burst: 1}}
		}, `tiers["gold"]: burst:`},
	} {
		t.Run(name, func(t *testing.T) { require.ErrorContains(t, rule("a/b/c", tc.change).Validate(), tc.want) })
	}
}

func TestNewTableReportsEveryBadRule(t *testing.T) {
	_, err := ratelimit.NewTable([]*ratelimit.Rule{
		rule("good"), rule("bad one", func(*ratelimit.Rule) {}), rule("bad2", func(r *ratelimit.Rule) { r.Window = 0 }), rule("good"),
	})
	require.ErrorContains(t, err, `"bad one"`)
	require.ErrorContains(t, err, `"bad2": window:`)
	require.ErrorContains(t, err, `"good": is present twice`)
}

func TestKeysAreUnambiguous(t *testing.T) {
	limit := rule("x").Limit
	require.NotEqual(t,
		ratelimit.NewKey("r", limit, []ratelimit.Entry{{Name: "a", Value: "b_c"}}),
		ratelimit.NewKey("r", limit, []ratelimit.Entry{{Name: "a_b", Value: "c"}}))
	require.Equal(t, ratelimit.NewKey("r", limit, nil), ratelimit.NewKey("r", rule("r", func(r *ratelimit.Rule) { r.Requests = 99 }).Limit, nil),
		"numbers are no part of a key")
	part := rapid.StringMatching(`[0-9:kfg;_a]{0,30}`)
	entry := rapid.Custom(func(t *rapid.T) ratelimit.Entry {
		return ratelimit.Entry{Name: part.Draw(t, "name"), Value: part.Draw(t, "value")}
	})
	rapid.Check(t, func(t *rapid.T) {
		type parts struct {
			id      string
			window  time.Duration
			entries []ratelimit.Entry
		}
		draw := func(label string) (parts, ratelimit.Key) {
			p := parts{
				id: part.Draw(t, label), window: rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(t, label),
				entries: append([]ratelimit.Entry{}, rapid.SliceOfN(entry, 0, 3).Draw(t, label)...),
			}
			l := limit
			l.Window = p.window
			return p, ratelimit.NewKey(p.id, l, p.entries)
		}
		a, keyA := draw("a")
		b, keyB := draw("b")
		require.LessOrEqual(t, len(keyA), 64)
		if keyA == keyB {
			require.Equal(t, a, b)
		}
	})
}
