package ratelimit

// MaxNumbers is how many numbers a charge has at most.
const MaxNumbers = 7

// Numbers are what a store outside this process needs to decide a charge: the
// letter of the algorithm, and n integers that float64 holds exactly.
//
//	f  fixed window: capacity, cost, window
//	c  calendar:     capacity, cost, and the bounds of the period before the one
//	                 in which clock lies, of that one, and of the one after it
//	g  GCRA:         tolerance whole, tolerance rest, cost whole, cost rest,
//	                 scale, and the longest possible backlog
//	s  log:          capacity, cost, window, slot
//
// and of a refund, with what the receipt says:
//
//	f  cost, at
//	g  cost whole, cost rest, scale, at, back
//	s  cost, at, window
//
// The store decides by its own clock; clock, which is the caller's, only picks
// the three periods of a calendar that are worth telling. possible is false when
// the cost exceeds what the limit can ever admit and is not forced: then the
// store needs no numbers, and n is 0.
func (c *Charge) Numbers(clock Time) (letter byte, numbers [MaxNumbers]int64, n int, possible bool) {
	limit, letter := &c.Limit, c.Limit.storeLetter()
	if c.Refund {
		numbers, n = c.refundNumbers(letter)
		return letter, numbers, n, n > 0
	}
	capacity, cost := int64(limit.Capacity()), int64(min(c.Cost, MaxCost))
	if cost > capacity && !c.Force || limit.Algorithm == GCRA && limit.Requests == 0 {
		return letter, numbers, 0, false
	}
	switch letter {
	case 'c':
		start, end := limit.Period(clock)
		before, _ := limit.Period(start - 1)
		_, after := limit.Period(end)
		return letter, [MaxNumbers]int64{capacity, cost, before, start, end, after}, 6, true
	case 'g':
		toleranceWhole, toleranceRest := limit.spread(uint64(capacity))
		costWhole, costRest := limit.spread(uint64(cost))
		return letter, [MaxNumbers]int64{
			toleranceWhole, int64(toleranceRest), costWhole, int64(costRest), int64(limit.Requests), limit.longestBacklog(),
		}, 6, true
	case 's':
		return letter, [MaxNumbers]int64{capacity, cost, limit.Window.Microseconds(), slotOf(*limit)}, 4, true
	default:
		return letter, [MaxNumbers]int64{capacity, cost, limit.Window.Microseconds()}, 3, true
	}
}

func (c *Charge) refundNumbers(letter byte) (numbers [MaxNumbers]int64, n int) {
	cost := min(c.Cost, MaxCost)
	switch letter {
	case 'g':
		if c.Limit.Requests == 0 {
			return numbers, 0
		}
		whole, rest := c.Limit.spread(cost)
		return [MaxNumbers]int64{whole, int64(rest), int64(c.Limit.Requests), c.Receipt.At, c.Receipt.Back}, 5
	case 's':
		return [MaxNumbers]int64{int64(cost), c.Receipt.At, c.Limit.Window.Microseconds()}, 3
	default:
		return [MaxNumbers]int64{int64(cost), c.Receipt.At}, 2
	}
}

// storeLetter is that of the script's function: logs share one, and calendars
// have one of their own.
func (l *Limit) storeLetter() byte {
	switch {
	case l.Calendar != NoCalendar:
		return 'c'
	case l.Algorithm == Concurrency:
		return 's'
	}
	return l.Algorithm.letter()
}
