package memory

import (
	"sync"

	"weir.dev/ratelimit"
)

// sweepPerInsert is how many dead counters a new one clears away, so that the
// dead are gone after a while without a goroutine that looks for them.
const sweepPerInsert = 2

// shard holds its counters in a slab, found by a map and ordered by a heap on
// the expiry that each had when it was last placed in the heap. An expiry only
// moves later, so a heap entry is early at worst and is corrected when it comes
// to the top: charging an existing key never touches the heap.
type shard struct {
	mu     sync.Mutex
	limit  int
	places map[ratelimit.Key]int32
	slab   []counter
	// logs are those of the states in the slab that have one, by place: apart,
	// so that other counters don't pay for them.
	logs map[int32]string
	free []int32
	heap []heapEntry
	_    [40]byte // keeps neighbours' locks off one cache line
}

type counter struct {
	key    ratelimit.Key
	at     ratelimit.Time
	count  uint64
	back   int64
	expiry ratelimit.Time
	scale  uint32
	logged bool
}

func (s *shard) state(place int32) ratelimit.State {
	c := &s.slab[place]
	state := ratelimit.State{At: c.at, Count: c.count, Scale: c.scale, Back: c.back}
	if c.logged {
		state.Log = s.logs[place]
	}
	return state
}

func (s *shard) setState(place int32, state ratelimit.State) {
	c := &s.slab[place]
	c.at, c.count, c.back, c.scale = state.At, state.Count, state.Back, state.Scale
	switch {
	case state.Log != "":
		if s.logs == nil {
			s.logs = map[int32]string{}
		}
		s.logs[place], c.logged = state.Log, true
	case c.logged:
		delete(s.logs, place)
		c.logged = false
	}
}

type heapEntry struct {
	expiry ratelimit.Time
	place  int32
}

func (s *shard) get(key ratelimit.Key) ratelimit.State {
	if place, ok := s.places[key]; ok {
		return s.state(place)
	}
	return ratelimit.State{}
}

// put stores a state and returns how many live counters were evicted for it.
func (s *shard) put(key ratelimit.Key, state ratelimit.State, expiry, now ratelimit.Time) (evictedLive uint64) {
	if place, ok := s.places[key]; ok {
		s.setState(place, state)
		// Never earlier than the heap believes; see shard.
		s.slab[place].expiry = max(expiry, s.slab[place].expiry)
		return 0
	}
	for range sweepPerInsert {
		if !s.dropDead(now) {
			break
		}
	}
	if len(s.places) >= s.limit {
		s.evict()
		evictedLive = 1
	}
	place := s.take(counter{key: key, expiry: expiry})
	s.setState(place, state)
	s.places[key] = place
	s.push(heapEntry{expiry: expiry, place: place})
	return evictedLive
}

func (s *shard) take(c counter) int32 {
	if last := len(s.free) - 1; last >= 0 {
		place := s.free[last]
		s.free = s.free[:last]
		s.slab[place] = c
		return place
	}
	s.slab = append(s.slab, c)
	return int32(len(s.slab) - 1)
}

// maxCorrections bounds the work of finding whom to evict when all are alive.
const maxCorrections = 32

// dropDead removes one counter that no longer matters, if there is any.
func (s *shard) dropDead(now ratelimit.Time) bool {
	for len(s.heap) > 0 && s.heap[0].expiry <= now {
		if s.correctTop() {
			continue
		}
		s.dropTop()
		return true
	}
	return false
}

// evict removes the counter that expires first, or nearly so; it is alive.
func (s *shard) evict() {
	for range maxCorrections {
		if !s.correctTop() {
			break
		}
	}
	s.dropTop()
}

// correctTop moves the heap's top to where it belongs; false if it is there.
func (s *shard) correctTop() bool {
	actual := s.slab[s.heap[0].place].expiry
	if actual <= s.heap[0].expiry {
		return false
	}
	s.heap[0].expiry = actual
	s.sink(0)
	return true
}

func (s *shard) dropTop() {
	place := s.heap[0].place
	last := len(s.heap) - 1
	s.heap[0] = s.heap[last]
	s.heap = s.heap[:last]
	s.sink(0)
	delete(s.places, s.slab[place].key)
	if s.slab[place].logged {
		delete(s.logs, place)
	}
	s.slab[place] = counter{}
	s.free = append(s.free, place)
}

func (s *shard) push(entry heapEntry) {
	s.heap = append(s.heap, entry)
	for i := len(s.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if s.heap[parent].expiry <= s.heap[i].expiry {
			break
		}
		s.heap[parent], s.heap[i] = s.heap[i], s.heap[parent]
		i = parent
	}
}

func (s *shard) sink(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(s.heap); child++ {
			if s.heap[child].expiry < s.heap[least].expiry {
				least = child
			}
		}
		if least == i {
			return
		}
		s.heap[i], s.heap[least] = s.heap[least], s.heap[i]
		i = least
	}
}
