package ratelimit

import (
	"encoding/binary"
	"math"
	"time"
)

// A log remembers what was admitted and when, as marks in the order of time.
// It is exact for as many marks as maxMarks; when there would be more, those of
// one slot, a sixteenth of the window, become one that bears the time of the
// latest: the last two if that is enough, else all. So nothing is forgotten
// early, and nothing later than a slot after its time.
const (
	slotsPerWindow = 16
	maxMarks       = slotsPerWindow + 1
	markBytes      = 12
)

// mark is a cost and when it was charged.
type mark struct {
	at   Time
	cost uint32
}

// marks is an unpacked log with room for one mark too many.
type marks struct {
	list [maxMarks + 1]mark
	n    int
	used uint64
}

// liveMarks are those of a log that count at now: younger than a window. A mark
// of the future was made before the clock went back and counts, unless the
// step was longer than a window.
func liveMarks(now Time, limit Limit, log string) marks {
	window := limit.Window.Microseconds()
	var live marks
	for i := 0; i+markBytes <= len(log) && live.n < maxMarks; i += markBytes {
		m := mark{at: int64(readFloat(log[i:])), cost: readUint32(log[i+8:])}
		if m.at > now-window && m.at <= now+window {
			live.list[live.n] = m
			live.n++
			live.used += uint64(m.cost)
		}
	}
	return live
}

// add charges cost at now, or at the latest mark's time if that is later.
func (m *marks) add(now Time, limit Limit, cost uint64) {
	m.used += cost
	if m.n > 0 && m.list[m.n-1].at >= now {
		last := &m.list[m.n-1]
		last.cost = saturated(uint64(last.cost) + cost)
		return
	}
	m.list[m.n] = mark{at: now, cost: saturated(cost)}
	m.n++
	if m.n <= maxMarks {
		return
	}
	slot := slotOf(limit)
	for i := m.n - 2; i >= 0; i-- {
		if m.list[i].at/slot == m.list[i+1].at/slot {
			m.join(i)
			if i == maxMarks-1 {
				return
			}
		}
	}
	// Only after the clock went back can they span more than a window.
	for m.n > maxMarks {
		m.join(0)
	}
}

// join makes the mark i part of the next.
func (m *marks) join(i int) {
	m.list[i+1].cost = saturated(uint64(m.list[i+1].cost) + uint64(m.list[i].cost))
	m.drop(i)
}

func (m *marks) drop(i int) {
	copy(m.list[i:m.n], m.list[i+1:m.n])
	m.n--
}

// pack is the log's form in a State: per mark the time as a little-endian
// float64, which holds it exactly, and the cost as a uint32.
func (m *marks) pack() string {
	var space [maxMarks * markBytes]byte
	buffer := space[:0]
	for _, one := range m.list[:m.n] {
		buffer = binary.LittleEndian.AppendUint64(buffer, math.Float64bits(float64(one.at)))
		buffer = binary.LittleEndian.AppendUint32(buffer, one.cost)
	}
	return string(buffer)
}

// reset is the time until the whole allowance is back.
func (m *marks) reset(now Time, limit Limit) time.Duration {
	if m.n == 0 {
		return 0
	}
	return micros(m.list[m.n-1].at + limit.Window.Microseconds() - now)
}

// room is the time until cost fits, at most capacity.
func (m *marks) room(now Time, limit Limit, cost uint64) time.Duration {
	used := m.used
	for _, one := range m.list[:m.n] {
		used -= min(used, uint64(one.cost))
		if used+cost <= limit.Capacity() {
			return micros(one.at + limit.Window.Microseconds() - now)
		}
	}
	return m.reset(now, limit)
}

// slotOf is the length of a slot in microseconds.
func slotOf(limit Limit) int64 {
	return (limit.Window.Microseconds() + slotsPerWindow - 1) / slotsPerWindow
}

// maxConcurrencyRetry bounds what those are told who found all places taken: a
// place can come back with any response, long before its lease ends.
const maxConcurrencyRetry = time.Second

// logged decides by a log: SlidingWindow and Concurrency.
func logged(now Time, limit Limit, state State, cost uint64, force bool) (State, Decision) {
	live := liveMarks(now, limit, state.Log)
	capacity := limit.Capacity()
	decision := Decision{Allowed: cost == 0 || live.used+cost <= capacity}
	switch {
	case decision.Allowed:
	case cost > capacity:
		decision.RetryAfter = max(live.reset(now, limit), time.Microsecond)
	default:
		decision.RetryAfter = live.room(now, limit, cost)
	}
	if !decision.Allowed && limit.Algorithm == Concurrency {
		decision.RetryAfter = min(decision.RetryAfter, maxConcurrencyRetry)
	}
	if cost > 0 && (decision.Allowed || force) {
		live.add(now, limit, cost)
		state = State{Log: live.pack()}
	}
	decision.Reset = live.reset(now, limit)
	if live.used < capacity {
		decision.Remaining = uint32(capacity - live.used)
	}
	return state, decision
}

// refundLogged gives back what was charged at the time at. Marks only ever move
// later, past no other, so the charge is in the first mark that is not earlier.
func refundLogged(now Time, limit Limit, state State, cost uint64, at Time) State {
	if at <= now-limit.Window.Microseconds() {
		return state
	}
	live := liveMarks(now, limit, state.Log)
	for i := range live.n {
		one := &live.list[i]
		if one.at < at {
			continue
		}
		one.cost -= uint32(min(cost, uint64(one.cost)))
		if one.cost == 0 {
			live.drop(i)
		}
		return State{Log: live.pack()}
	}
	return state
}

func saturated(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }

func readFloat(s string) float64 {
	return math.Float64frombits(uint64(readUint32(s)) | uint64(readUint32(s[4:]))<<32)
}

func readUint32(s string) uint32 {
	_ = s[3]
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}
