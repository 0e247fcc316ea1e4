package supervisor

import "time"

// Backoff says how long to wait before a restart.
type Backoff struct {
	// First delay, doubled each time up to Max.
	First, Max time.Duration
	// ResetAfter is how long a child must have run for its history to be
	// forgotten.
	ResetAfter time.Duration
}

// DefaultBackoff waits 100 ms, doubling to 5 s, and forgets after 10 s.
func DefaultBackoff() Backoff {
	return Backoff{First: 100 * time.Millisecond, Max: 5 * time.Second, ResetAfter: 10 * time.Second}
}

// Next is the delay, before jitter, after a child that ran for upFor and was
// itself started after a delay of previous; 0 is a first start.
func (b Backoff) Next(previous, upFor time.Duration) time.Duration {
	if previous == 0 || upFor >= b.ResetAfter {
		return b.First
	}
	return min(2*previous, b.Max)
}

// Jittered shortens delay by up to a fifth, by a random number in [0, 1), so
// that children that failed together do not come back together.
func Jittered(delay time.Duration, random float64) time.Duration {
	return delay - time.Duration(random*float64(delay)/5)
}
