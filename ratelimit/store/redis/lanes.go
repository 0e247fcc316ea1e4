package redis

import (
	"sync"

	goredis "github.com/redis/go-redis/v9"
)

// maxLanes bounds the nodes remembered; those that left the cluster are among
// them.
const maxLanes = 1000

// lanes has one batcher for each node, so that none waits for another's calls.
// Safe for concurrent use.
type lanes struct {
	make func(node goredis.UniversalClient) *batcher

	mu     sync.RWMutex
	byNode map[goredis.UniversalClient]*batcher
}

func (l *lanes) of(node goredis.UniversalClient) *batcher {
	l.mu.RLock()
	lane := l.byNode[node]
	l.mu.RUnlock()
	if lane != nil {
		return lane
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if lane = l.byNode[node]; lane != nil {
		return lane
	}
	if l.byNode == nil || len(l.byNode) >= maxLanes {
		l.byNode = map[goredis.UniversalClient]*batcher{} // those in use end by themselves
	}
	lane = l.make(node)
	l.byNode[node] = lane
	return lane
}
