package ratelimit_test

import (
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/ratelimit"
)

func calendar(t require.TestingT, period ratelimit.Calendar, zone string) ratelimit.Limit {
	location, err := time.LoadLocation(zone)
	require.NoError(t, err)
	return ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 2, Window: period.Length(), Calendar: period, Zone: location}
}

func TestPeriods(t *testing.T) {
	for name, tc := range map[string]struct {
		period                ratelimit.Calendar
		zone, now, start, end string
	}{
		"a day":                                 {ratelimit.Day, "Europe/Berlin", "2026-07-01T12:00:00+02:00", "2026-07-01T00:00:00+02:00", "2026-07-02T00:00:00+02:00"},
		"midnight belongs to the new day":       {ratelimit.Day, "Europe/Berlin", "2026-07-01T00:00:00+02:00", "2026-07-01T00:00:00+02:00", "2026-07-02T00:00:00+02:00"},
		"the day of 23 hours":                   {ratelimit.Day, "Europe/Berlin", "2026-03-29T12:00:00+02:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		"the day of 25 hours":                   {ratelimit.Day, "Europe/Berlin", "2026-10-25T12:00:00+01:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		"the hour that comes twice":             {ratelimit.Day, "Europe/Berlin", "2026-10-25T02:30:00+01:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		"a midnight that is skipped":            {ratelimit.Day, "Asia/Beirut", "2026-03-29T12:00:00+03:00", "2026-03-29T01:00:00+03:00", "2026-03-30T00:00:00+03:00"},
		"the day before it":                     {ratelimit.Day, "Asia/Beirut", "2026-03-28T23:59:59+02:00", "2026-03-28T00:00:00+02:00", "2026-03-29T01:00:00+03:00"},
		"a midnight that is skipped, west":      {ratelimit.Day, "America/Sao_Paulo", "2018-11-04T05:00:00-02:00", "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"},
		"the clock goes back to the day before": {ratelimit.Day, "America/Sao_Paulo", "2018-02-17T23:30:00-03:00", "2018-02-17T00:00:00-02:00", "2018-02-18T00:00:00-03:00"},
		"a midnight that comes twice":           {ratelimit.Day, "America/Havana", "2026-11-01T12:00:00-05:00", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		"a week":                                {ratelimit.Week, "Europe/Berlin", "2026-11-21T20:00:00+01:00", "2026-11-16T00:00:00+01:00", "2026-11-23T00:00:00+01:00"},
		"a week's Sunday":                       {ratelimit.Week, "Europe/Berlin", "2026-11-22T23:59:59+01:00", "2026-11-16T00:00:00+01:00", "2026-11-23T00:00:00+01:00"},
		"a week over a month's end":             {ratelimit.Week, "UTC", "2026-12-31T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		"a month":                               {ratelimit.Month, "America/New_York", "2026-11-30T23:59:59-05:00", "2026-11-01T00:00:00-04:00", "2026-12-01T00:00:00-05:00"},
		"February":                              {ratelimit.Month, "UTC", "2028-02-29T00:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		"December":                              {ratelimit.Month, "UTC", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			at := func(text string) ratelimit.Time {
				parsed, err := time.Parse(time.RFC3339, text)
				require.NoError(t, err)
				return parsed.UnixMicro()
			}
			start, end := calendar(t, tc.period, tc.zone).Period(at(tc.now))
			require.Equal(t, time.UnixMicro(at(tc.start)).UTC(), time.UnixMicro(start).UTC())
			require.Equal(t, time.UnixMicro(at(tc.end)).UTC(), time.UnixMicro(end).UTC())
		})
	}
}

// Periods follow each other without a gap, in zones with odd changes too.
func TestPeriodsTile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := calendar(t, rapid.SampledFrom([]ratelimit.Calendar{ratelimit.Day, ratelimit.Week, ratelimit.Month}).Draw(t, "period"),
			rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "Asia/Beirut", "America/Sao_Paulo", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu", "Africa/Cairo"}).Draw(t, "zone"))
		now := rapid.Int64Range(0, 2_000_000_000_000_000).Draw(t, "now")
		start, end := limit.Period(now)
		require.LessOrEqual(t, start, now)
		require.Greater(t, end, now)
		again, _ := limit.Period(start)
		require.Equal(t, start, again)
		next, _ := limit.Period(end)
		require.Equal(t, end, next)
	})
}

func TestCalendarWindowsCount(t *testing.T) {
	limit := calendar(t, ratelimit.Day, "Europe/Berlin")
	evening := time.Date(2026, 10, 24, 23, 59, 0, 0, limit.Zone).UnixMicro()
	state, decision := ratelimit.Decide(evening, limit, ratelimit.State{}, 2)
	require.True(t, decision.Allowed)
	require.Equal(t, time.Minute, decision.Reset)
	_, decision = ratelimit.Decide(evening, limit, state, 1)
	require.Equal(t, time.Minute, decision.RetryAfter)
	state, decision = ratelimit.Decide(evening+time.Minute.Microseconds(), limit, state, 2)
	require.True(t, decision.Allowed, "a new day")
	require.Equal(t, 25*time.Hour, decision.Reset, "the clocks go back in it")
	_, decision = ratelimit.Decide(evening, limit, state, 1)
	require.False(t, decision.Allowed, "a clock that goes back a minute opens no old window")
	require.Equal(t, 25*time.Hour+time.Minute, decision.RetryAfter)
	require.Equal(t, time.Date(2026, 10, 26, 0, 0, 0, 0, limit.Zone).UnixMicro(), state.Expiry(limit))
}
