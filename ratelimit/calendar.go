package ratelimit

import "time"

// Calendar is a period of the calendar that a FixedWindow counts by, instead of
// a length.
type Calendar uint8

// The calendar's periods. Weeks begin on Mondays (ISO 8601).
const (
	NoCalendar Calendar = iota
	Day
	Week
	Month
)

// String is the period's name.
func (c Calendar) String() string {
	return [...]string{"none", "day", "week", "month"}[min(c, Month)]
}

// Length is the usual length of the period, a month being 30 days; a day on
// which the clocks change has 23 or 25 hours.
func (c Calendar) Length() time.Duration {
	const day = 24 * time.Hour
	return [...]time.Duration{0, day, 7 * day, 30 * day}[min(c, Month)]
}

// Period is the window of the limit that now lies in: from start, which belongs
// to it, to end, which doesn't. A calendar's day begins with the first instant
// that bears its date in the limit's zone, also where the clocks change at
// midnight.
func (l Limit) Period(now Time) (start, end Time) {
	if l.Calendar == NoCalendar {
		window := l.Window.Microseconds()
		start = now - mod(now, window)
		return start, start + window
	}
	zone := l.Zone
	if zone == nil {
		zone = time.UTC
	}
	year, month, day := time.UnixMicro(now).In(zone).Date()
	switch l.Calendar {
	case Month:
		return startOfDay(year, month, 1, zone), startOfDay(year, month+1, 1, zone)
	case Week:
		weekday := time.Date(year, month, day, 12, 0, 0, 0, time.UTC).Weekday()
		monday := day - (int(weekday)+6)%7
		return startOfDay(year, month, monday, zone), startOfDay(year, month, monday+7, zone)
	default:
		return startOfDay(year, month, day, zone), startOfDay(year, month, day+1, zone)
	}
}

// startOfDay is the first instant of a date; the day may lie outside its month.
func startOfDay(year int, month time.Month, day int, zone *time.Location) Time {
	date := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix()
	midnight := time.Date(year, month, day, 0, 0, 0, 0, zone)
	// Where clocks skip midnight, time.Date may answer with an instant before
	// the gap or after it.
	begins, ends := midnight.ZoneBounds()
	if dateOf(midnight) < date && !ends.IsZero() {
		return ends.UnixMicro()
	}
	if !begins.IsZero() && dateOf(begins) == date && dateOf(begins.Add(-time.Microsecond)) < date {
		return begins.UnixMicro()
	}
	return midnight.UnixMicro()
}

// dateOf is the date of t in its zone, as the UTC midnight of that date.
func dateOf(t time.Time) int64 {
	year, month, day := t.Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix()
}
