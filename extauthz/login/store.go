package login

import (
	"container/heap"
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"
)

// Store keeps what outlives a request: sessions, locks and what was used up.
// Values are sealed or say nothing by themselves, keys hold only hashes. An
// implementation is safe for concurrent use and passes storetest.Run. Errors mean
// that the store cannot be asked; the caller then refuses.
type Store interface {
	// Get returns nil when there is no such value, or its time is over.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put keeps a value for ttl, which is more than 0.
	Put(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Add is Put where nothing is kept under key, and says whether it was so: of
	// several at once, one is told true. Each call has a value of its own, such as
	// unique makes: a store that has to ask again, since an answer was lost, knows by
	// it what it has put there itself.
	Add(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error)
	// Replace is Put where something is kept under key, and says whether it was.
	Replace(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error)
	// Delete forgets keys; those not there are no error.
	Delete(ctx context.Context, keys ...string) error
	// Append adds a member to a list that lives for ttl from now, and returns the
	// oldest members that it drops to keep at most the most.
	Append(ctx context.Context, list, member string, most int, ttl time.Duration) (dropped []string, err error)
	// Members lists what was appended, oldest first.
	Members(ctx context.Context, list string) ([]string, error)
}

// Memory is a Store of one process. It holds a bounded number of values and
// drops those whose time is over first when there are more. Safe for concurrent
// use.
type Memory struct {
	most  int
	clock func() time.Time
	// dropped, which may be nil, hears of values dropped before their time.
	dropped func()

	mu     sync.Mutex
	values map[string]*entry
	order  expiry
}

type entry struct {
	key     string
	value   []byte
	members []string
	ends    time.Time
	at      int
}

// NewMemory makes a Memory of at most the given number of values.
func NewMemory(most int, clock func() time.Time, dropped func()) *Memory {
	return &Memory{most: most, clock: clock, dropped: dropped, values: map[string]*entry{}}
}

// Get implements Store.
func (m *Memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if found := m.live(key); found != nil {
		return found.value, nil
	}
	return nil, nil
}

// Put implements Store.
func (m *Memory) Put(_ context.Context, key string, value []byte, ttl time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(key, &entry{value: slices.Clone(value)}, ttl)
	return nil
}

// Add implements Store.
func (m *Memory) Add(_ context.Context, key string, value []byte, ttl time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live(key) != nil {
		return false, nil
	}
	m.put(key, &entry{value: slices.Clone(value)}, ttl)
	return true, nil
}

// Replace implements Store.
func (m *Memory) Replace(_ context.Context, key string, value []byte, ttl time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live(key) == nil {
		return false, nil
	}
	m.put(key, &entry{value: slices.Clone(value)}, ttl)
	return true, nil
}

// Delete implements Store.
func (m *Memory) Delete(_ context.Context, keys ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		if found := m.values[key]; found != nil {
			m.forget(found)
		}
	}
	return nil
}

// Append implements Store.
func (m *Memory) Append(_ context.Context, list, member string, most int, ttl time.Duration) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var members []string
	if found := m.live(list); found != nil {
		members = slices.DeleteFunc(slices.Clone(found.members), func(known string) bool { return known == member })
	}
	members = append(members, member)
	over := max(0, len(members)-most)
	m.put(list, &entry{members: slices.Clone(members[over:])}, ttl)
	return members[:over], nil
}

// Members implements Store.
func (m *Memory) Members(_ context.Context, list string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if found := m.live(list); found != nil {
		return slices.Clone(found.members), nil
	}
	return nil, nil
}

// Len is the number of values, those whose time is over included.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.values)
}

func (m *Memory) live(key string) *entry {
	found := m.values[key]
	if found != nil && !m.clock().Before(found.ends) {
		m.forget(found)
		return nil
	}
	return found
}

func (m *Memory) put(key string, made *entry, ttl time.Duration) {
	if old := m.values[key]; old != nil {
		m.forget(old)
	}
	now := m.clock()
	for len(m.order) > 0 && (!now.Before(m.order[0].ends) || len(m.order) >= m.most) {
		if now.Before(m.order[0].ends) && m.dropped != nil {
			m.dropped()
		}
		m.forget(m.order[0])
	}
	made.key, made.ends = key, now.Add(ttl)
	m.values[key] = made
	heap.Push(&m.order, made)
}

func (m *Memory) forget(old *entry) {
	delete(m.values, old.key)
	heap.Remove(&m.order, old.at)
}

// expiry is a heap, the value that ends first on top.
type expiry []*entry

func (e expiry) Len() int           { return len(e) }
func (e expiry) Less(i, j int) bool { return e[i].ends.Before(e[j].ends) }
func (e expiry) Swap(i, j int)      { e[i], e[j] = e[j], e[i]; e[i].at, e[j].at = i, j }

// Push implements heap.Interface.
func (e *expiry) Push(value any) {
	made, _ := value.(*entry)
	made.at = len(*e)
	*e = append(*e, made)
}

// Pop implements heap.Interface.
func (e *expiry) Pop() any {
	last := (*e)[len(*e)-1]
	(*e)[len(*e)-1] = nil
	*e = (*e)[:len(*e)-1]
	return last
}

// unique is a value that no other call has.
func unique() []byte { return []byte(rand.Text()) }
