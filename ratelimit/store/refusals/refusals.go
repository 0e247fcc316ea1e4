// Package refusals remembers in the process which fixed windows are used up, so
// that their requests are refused without asking the store
// (LOCAL_CACHE_SIZE_IN_BYTES of envoyproxy/ratelimit). It admits nothing by
// itself: what it does not know goes to the store.
package refusals

import (
	"context"
	"sync"
	"time"

	"weir.dev/ratelimit"
)

// bytesEach is about what one remembered window takes.
const bytesEach = 160

// Store is a ratelimit.Store around another. Safe for concurrent use.
type Store struct {
	next  ratelimit.Store
	most  int
	clock func() time.Time

	mu   sync.Mutex
	used map[ratelimit.Key]window
}

// window is one that is used up.
type window struct {
	state ratelimit.State
	// now is the store's time when this process's was at.
	now   ratelimit.Time
	at    time.Time
	until time.Time
	limit ratelimit.Limit
}

// counts says whether the window is known to be used up at now. Before the time
// it was used up at, that is on a clock set back, it may be another window.
func (w *window) counts(now time.Time) bool {
	return !now.Before(w.at) && now.Before(w.until)
}

// New wraps next and remembers at most about size bytes. clock is time.Now if
// nil.
func New(next ratelimit.Store, size int, clock func() time.Time) *Store {
	if clock == nil {
		clock = time.Now
	}
	return &Store{next: next, most: max(1, size/bytesEach), clock: clock, used: map[ratelimit.Key]window{}}
}

// Take implements ratelimit.Store.
func (s *Store) Take(ctx context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if outcome, known := s.recall(charges); known {
		return outcome, nil
	}
	outcome, err := s.next.Take(ctx, charges)
	if err == nil {
		s.remember(charges, outcome)
	}
	return outcome, err
}

// recall answers a request all of whose counters are known to be used up.
func (s *Store) recall(charges []ratelimit.Charge) (ratelimit.Outcome, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.used) == 0 || len(charges) == 0 {
		return ratelimit.Outcome{}, false
	}
	now := s.clock()
	outcome := ratelimit.Outcome{Admitted: true, Results: make([]ratelimit.Result, len(charges))}
	for i := range charges {
		known, found := s.used[charges[i].Key]
		if !found || charges[i].Force || charges[i].Refund || charges[i].Limit != known.limit || !known.counts(now) {
			return ratelimit.Outcome{}, false
		}
		outcome.Results[i].State = known.state
		outcome.Now = max(outcome.Now, known.now+now.Sub(known.at).Microseconds())
		outcome.Admitted = outcome.Admitted && charges[i].Shadow
	}
	outcome.Remembered = true
	return outcome, true
}

// remember keeps which windows the store says are used up, and forgets those it
// says are not.
func (s *Store) remember(charges []ratelimit.Charge, outcome ratelimit.Outcome) {
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range charges {
		limit, state := charges[i].Limit, outcome.Results[i].State
		ends := state.At + limit.Window.Microseconds()
		if outcome.Results[i].Allowed || !endsAtOnce(limit) || state.Count < limit.Capacity() || state.At == 0 || state.At > outcome.Now || ends <= outcome.Now {
			delete(s.used, charges[i].Key)
			continue
		}
		s.makeRoom(now)
		s.used[charges[i].Key] = window{
			state: state, now: outcome.Now, at: now, limit: limit, until: now.Add(time.Duration(ends-outcome.Now) * time.Microsecond),
		}
	}
}

// endsAtOnce says whether what is used up of limit stays so to a moment that is
// known beforehand.
func endsAtOnce(limit ratelimit.Limit) bool {
	return limit.Algorithm == ratelimit.FixedWindow && limit.Calendar == ratelimit.NoCalendar
}

// makeRoom drops what is over, and else anything; some are looked at.
func (s *Store) makeRoom(now time.Time) {
	const looks = 8
	if len(s.used) < s.most {
		return
	}
	looked := 0
	var any ratelimit.Key
	for key, known := range s.used {
		any = key
		if looked++; !known.counts(now) || looked == looks {
			break
		}
	}
	delete(s.used, any)
}

// Forget implements ratelimit.Forgetter. Other processes go on remembering until
// their window ends.
func (s *Store) Forget(ctx context.Context, charges []ratelimit.Charge) error {
	next, able := s.next.(ratelimit.Forgetter)
	if !able {
		return ratelimit.ErrCannotForget
	}
	s.mu.Lock()
	for i := range charges {
		delete(s.used, charges[i].Key)
	}
	s.mu.Unlock()
	return next.Forget(ctx, charges)
}
