package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"weir.dev/ratelimit"
)

// errTryAgain is the error of a request whose keys are spread over two nodes,
// since their slot is being moved. It was not charged.
var errTryAgain = errors.New("the slot of these counters is being moved")

// maxRedirects bounds how often a call is sent on to another node.
const maxRedirects = 4

// call is one call of the script, for requests of one group.
type call struct {
	requests []*request
	// places are those of all their keys, one after the other, among the keys of the
	// call, from 1.
	places []uint16
	// whole is what the requests are together; nil if they aren't tried so.
	whole  whole
	answer string
	err    error
	// node is where to send it next, and asking that the node takes it only if
	// asked to, in the middle of a move (ASK).
	node   goredis.UniversalClient
	asking bool
	hopes  *hopes
}

// call decides a batch: one call for each group in it, in one pipeline.
func (s *Store) call(node goredis.UniversalClient, batch []*request) {
	ctx, cancel := context.WithDeadline(context.Background(), latest(batch))
	defer cancel()
	calls := make([]*call, 0, 1)
	byGroup := map[int]*call{}
	for _, r := range batch {
		one := byGroup[r.group]
		if one == nil {
			one = &call{node: node, hopes: &s.hopes}
			byGroup[r.group] = one
			calls = append(calls, one)
		}
		one.requests = append(one.requests, r)
	}
	s.pipeline(ctx, node, calls)
	for range maxRedirects {
		if calls = s.redirected(ctx, calls); len(calls) == 0 {
			return
		}
		for _, one := range calls {
			s.pipeline(ctx, one.node, []*call{one})
		}
	}
	for _, one := range calls {
		one.finish()
	}
}

// latest is when the most patient of the requests gives up.
func latest(batch []*request) time.Time {
	deadline := batch[0].deadline
	for _, r := range batch {
		if r.deadline.IsZero() || deadline.IsZero() {
			return time.Now().Add(callTimeout)
		}
		if r.deadline.After(deadline) {
			deadline = r.deadline
		}
	}
	return deadline
}

// pipeline sends calls to one node and sets their answers or errors. Nothing is
// sent twice but what the node has said that it did not do.
func (s *Store) pipeline(ctx context.Context, node goredis.UniversalClient, calls []*call) {
	s.exec(ctx, node, calls, "evalsha", s.digest)
	var unknown []*call
	for _, one := range calls {
		if one.err != nil && strings.HasPrefix(one.err.Error(), "NOSCRIPT") {
			unknown = append(unknown, one)
		}
	}
	if len(unknown) > 0 {
		s.exec(ctx, node, unknown, "eval", s.source)
	}
}

func (s *Store) exec(ctx context.Context, node goredis.UniversalClient, calls []*call, how, script string) {
	if len(calls) == 1 && !calls[0].asking && s.wait == nil {
		calls[0].answer, calls[0].err = node.Do(ctx, s.arguments(calls[0], how, script)...).Text()
		return
	}
	pipe := node.Pipeline()
	answers := make([]*goredis.Cmd, len(calls))
	for i, one := range calls {
		if one.asking {
			pipe.Do(ctx, "asking")
		}
		answers[i] = pipe.Do(ctx, s.arguments(one, how, script)...)
	}
	var replicated *goredis.Cmd
	if s.wait != nil {
		replicated = pipe.Do(ctx, s.wait...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, one := range calls {
		one.answer, one.err = answers[i].Text()
		if replicated != nil && one.err == nil {
			one.err = s.replicated(replicated)
		}
	}
}

// errNotReplicated is the error of calls that too few replicas have heard of.
var errNotReplicated = errors.New("too few replicas have confirmed the charges in time")

// replicated reads the answer of WAIT.
func (s *Store) replicated(answer *goredis.Cmd) error {
	count, err := answer.Int()
	if err == nil && count < s.wait[1].(int) { //nolint:forcetypeassert // set by New
		err = errNotReplicated
	}
	return err
}

// arguments are those of a call of the script, each key once; see take.lua.
func (s *Store) arguments(one *call, how, script string) []any {
	count, size := 0, 0
	for _, r := range one.requests {
		count += len(r.keys)
		size += len(r.charges)
	}
	const before = 3
	arguments := make([]any, before, before+count+3)
	known := make(map[string]uint16, count)
	one.places = make([]uint16, 0, count)
	charges := make([]byte, 0, size)
	for _, r := range one.requests {
		rest := r.charges
		charges, rest = append(charges, rest[0]), rest[1:]
		for i := range r.keys {
			place := known[r.keys[i]]
			if place == 0 {
				arguments = append(arguments, &r.keys[i])
				place = uint16(len(arguments) - before) //nolint:gosec // at most maxBatch requests of maxCharges
				known[r.keys[i]] = place
			}
			one.places = append(one.places, place)
			length := chargeHead + int(rest[chargeHead-1])
			charges, rest = append(charges, rest[:length]...), rest[length:]
			binary.LittleEndian.PutUint16(charges[len(charges)-length+chargePlace:], place)
		}
	}
	if one.whole = nil; len(one.requests) > 1 && s.hopes.worth() {
		one.whole = wholeOf(one.requests, one.places, len(known))
	}
	now := any("")
	if s.clock != nil {
		now = s.clock().UnixMicro()
	}
	arguments[0], arguments[1], arguments[2] = how, script, len(known)
	arguments = append(arguments, now, charges)
	if one.whole != nil {
		arguments = append(arguments, one.whole.encode(s.now()))
	}
	return arguments
}

// redirected ends the calls that are decided and returns the others, each with
// the node to send it to.
func (s *Store) redirected(ctx context.Context, calls []*call) (again []*call) {
	for _, one := range calls {
		reason := ""
		if one.err != nil && s.cluster != nil {
			reason = one.err.Error()
		}
		word, rest, _ := strings.Cut(reason, " ")
		switch word {
		case "TRYAGAIN":
			if len(one.requests) == 1 {
				one.err = errTryAgain
				one.finish()
				continue
			}
			for _, r := range one.requests {
				again = append(again, &call{requests: []*request{r}, node: one.node, asking: one.asking, hopes: one.hopes})
			}
			continue
		case "MOVED", "ASK":
			s.cluster.ReloadState(ctx)
			if node := s.nodeAt(ctx, rest); node != nil {
				again = append(again, &call{requests: one.requests, node: node, asking: word == "ASK", hopes: one.hopes})
				continue
			}
		case "READONLY", "CLUSTERDOWN":
			s.cluster.ReloadState(ctx)
		}
		one.finish()
	}
	return again
}

// nodeAt finds the node of a redirection, which is a slot and an address.
func (s *Store) nodeAt(ctx context.Context, redirection string) goredis.UniversalClient {
	_, address, _ := strings.Cut(redirection, " ")
	found := make(chan goredis.UniversalClient, 1)
	_ = s.cluster.ForEachShard(ctx, func(_ context.Context, node *goredis.Client) error {
		if node.Options().Addr == address {
			select {
			case found <- node:
			default:
			}
		}
		return nil
	})
	select {
	case node := <-found:
		return node
	default:
		return nil
	}
}

// finish hands each request its part of the answer.
func (c *call) finish() {
	err := c.err
	switch {
	case err != nil:
	case c.whole != nil && len(c.answer) > 8 && c.answer[8] == verdictWhole:
		c.hopes.learn(true)
		err = c.whole.answer(c.answer, c.requests, c.places)
	default:
		if c.whole != nil {
			c.hopes.learn(false)
		}
		counts := make([]int, len(c.requests))
		for i, r := range c.requests {
			counts[i] = len(r.keys)
		}
		err = cut(c.answer, counts, func(i int, now ratelimit.Time, part string) { c.requests[i].answer(now, part, nil) })
	}
	if err != nil {
		for _, r := range c.requests {
			r.answer(0, "", err)
		}
	}
}
