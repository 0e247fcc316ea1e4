package record

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/extauthz"
)

// Bounds of comparing, which nobody waits for.
const (
	shadowQueue   = 1024
	shadowWorkers = 2
	shadowTimeout = 2 * time.Second
	maxExamples   = 5
	// maxCandidates bounds how many candidates are counted, and maxFlips how many
	// reasons of each.
	maxCandidates = 1000
	maxFlips      = 300
	// forgetAfter is how long a candidate that nothing is compared with any more
	// is still shown.
	forgetAfter = 24 * time.Hour
)

// outcomeDropped counts decisions that there was no time to compare.
const outcomeDropped = "dropped"

// shadow compares candidates with the rules in force, beside the requests.
type shadow struct {
	keeper *Keeper
	queue  chan Made

	mu     sync.Mutex
	counts map[candidateKey]*candidateCounts
}

type candidateKey struct{ policy, digest string }

type candidateCounts struct {
	since, newest                              time.Time
	compared, same, undecided, failed, dropped int64
	flips                                      map[flipKey]*flipCounts
}

type flipKey struct {
	kind         extauthz.Outcome
	rule, reason string
}

type flipCounts struct {
	count    int64
	examples []string
}

func newShadow(keeper *Keeper) *shadow {
	return &shadow{keeper: keeper, queue: make(chan Made, shadowQueue), counts: map[candidateKey]*candidateCounts{}}
}

// toCompare is a decision for its candidates, if there are any: with the body,
// and with the credentials only where a candidate looks at them.
func toCompare(made *Made) (compared Made, some bool) {
	some, credentials := extauthz.HasCandidates(made.Rules, made.Request)
	if !some {
		return compared, false
	}
	compared = *made
	request := *made.Request
	if credentials {
		request.Headers = slices.Clone(request.Headers)
	}
	compared.Request = &request
	return compared, true
}

// offer has a decision compared if there is time.
func (s *shadow) offer(made Made) {
	select {
	case s.queue <- made:
	default:
		for _, c := range extauthz.Candidates(made.Rules, made.Request) {
			s.count(extauthz.Verdict{Policy: c.Policy, Digest: c.Digest, Outcome: outcomeDropped}, made.Decision.ID)
		}
	}
}

func (s *shadow) run(ctx context.Context) error {
	var group sync.WaitGroup
	for range shadowWorkers {
		group.Go(func() {
			for {
				select {
				case made := <-s.queue:
					s.compare(ctx, made)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	group.Wait()
	return nil
}

func (s *shadow) compare(ctx context.Context, made Made) {
	ctx, cancel := context.WithTimeout(ctx, shadowTimeout)
	defer cancel()
	defer func() {
		if cause := recover(); cause != nil {
			s.keeper.options.Logger.Error("comparing a candidate broke", "decision", made.Decision.ID, "cause", cause)
		}
	}()
	verdicts := extauthz.Consider(ctx, s.keeper.options.Clock(), made.Rules, made.Request, made.Decision)
	for _, verdict := range verdicts {
		s.count(verdict, made.Decision.ID)
	}
	s.keeper.ring.compared(made.Decision.ID, verdicts)
}

func (s *shadow) count(verdict extauthz.Verdict, id string) {
	rule := ""
	if verdict.Outcome == extauthz.OutcomeAllowToDeny || verdict.Outcome == extauthz.OutcomeDenyToAllow {
		rule = cmp.Or(verdict.Rule, string(verdict.Reason))
	}
	s.keeper.options.Events.Candidate(verdict.Policy, string(verdict.Outcome), rule)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(candidateKey{verdict.Policy, verdict.Digest})
	if c == nil {
		return
	}
	switch verdict.Outcome {
	case outcomeDropped:
		c.dropped++
	case extauthz.OutcomeUndecided:
		c.undecided++
	case extauthz.OutcomeError:
		c.compared++
		c.failed++
	case extauthz.OutcomeSame:
		c.compared++
		c.same++
	default:
		c.compared++
		c.flip(flipKey{verdict.Outcome, verdict.Rule, string(verdict.Reason)}, id)
	}
}

// of is the counts of a candidate, nil when there are too many.
func (s *shadow) of(key candidateKey) *candidateCounts {
	now := s.keeper.options.Clock()
	c := s.counts[key]
	if c == nil {
		for other, old := range s.counts {
			if now.Sub(old.newest) > forgetAfter {
				delete(s.counts, other)
			}
		}
		if len(s.counts) >= maxCandidates {
			return nil
		}
		c = &candidateCounts{since: now, flips: map[flipKey]*flipCounts{}}
		s.counts[key] = c
	}
	c.newest = now
	return c
}

func (c *candidateCounts) flip(key flipKey, id string) {
	f := c.flips[key]
	if f == nil {
		if len(c.flips) >= maxFlips {
			return
		}
		f = &flipCounts{}
		c.flips[key] = f
	}
	f.count++
	if len(f.examples) == maxExamples {
		copy(f.examples, f.examples[1:])
		f.examples = f.examples[:maxExamples-1]
	}
	f.examples = append(f.examples, id)
}

// list is what is counted of the candidates that are still there, by policy and
// digest.
func (s *shadow) list() []*decisionv1.Candidate {
	there := func(candidateKey) bool { return true }
	if current := s.keeper.options.Rules; current != nil {
		named := extauthz.AllCandidates(current())
		there = func(key candidateKey) bool { return named[extauthz.Named{Policy: key.policy, Digest: key.digest}] }
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*decisionv1.Candidate, 0, len(s.counts))
	for key, c := range s.counts {
		if !there(key) {
			continue
		}
		out := &decisionv1.Candidate{
			Policy: key.policy, Digest: key.digest, Since: timestamppb.New(c.since), Server: s.keeper.options.Server,
			Compared: c.compared, Same: c.same, Undecided: c.undecided, Failed: c.failed, Dropped: c.dropped,
		}
		for kind, f := range c.flips {
			out.Flips = append(out.Flips, &decisionv1.Flip{
				Kind: string(kind.kind), Rule: kind.rule, Reason: kind.reason, Count: f.count, Examples: slices.Clone(f.examples),
			})
		}
		slices.SortFunc(out.GetFlips(), func(a, b *decisionv1.Flip) int {
			return cmp.Or(-cmp.Compare(a.GetCount(), b.GetCount()), cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetRule(), b.GetRule()), cmp.Compare(a.GetReason(), b.GetReason()))
		})
		list = append(list, out)
	}
	slices.SortFunc(list, func(a, b *decisionv1.Candidate) int {
		return cmp.Or(cmp.Compare(a.GetPolicy(), b.GetPolicy()), cmp.Compare(a.GetDigest(), b.GetDigest()))
	})
	return list
}
