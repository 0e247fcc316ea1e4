package record

import (
	"sync"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/extauthz"
)

// maxFound bounds the decisions that one id finds.
const maxFound = 20

// ring remembers the newest decisions. Records are made of them only when
// somebody asks. Safe for concurrent use.
type ring struct {
	mu   sync.Mutex
	kept []remembered
	next int
}

type remembered struct {
	made     Made
	verdicts []extauthz.Verdict
}

func newRing(size int) *ring { return &ring{kept: make([]remembered, size)} }

// add remembers a decision in place of the oldest.
func (r *ring) add(made Made) {
	if len(r.kept) == 0 {
		return
	}
	r.mu.Lock()
	r.kept[r.next] = remembered{made: made}
	r.next = (r.next + 1) % len(r.kept)
	r.mu.Unlock()
}

// compared adds what candidates said of a decision, if it is still remembered.
func (r *ring) compared(id string, verdicts []extauthz.Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// It is most likely one of the newest.
	for back := 1; back <= len(r.kept); back++ {
		at := &r.kept[(r.next-back+len(r.kept))%len(r.kept)]
		if at.made.Decision == nil {
			return
		}
		if at.made.Decision.ID == id {
			at.verdicts = verdicts
			return
		}
	}
}

// find returns the decisions with an id, their own or their request's, the newest
// first.
func (r *ring) find(server, id string) []*decisionv1.Decision {
	var found []remembered
	r.mu.Lock()
	for back := 1; back <= len(r.kept) && len(found) < maxFound; back++ {
		at := &r.kept[(r.next-back+len(r.kept))%len(r.kept)]
		if at.made.Decision == nil {
			break
		}
		if at.made.Decision.ID == id || at.made.Request.ID == id {
			found = append(found, *at)
		}
	}
	r.mu.Unlock()
	var records []*decisionv1.Decision
	for i := range found {
		record := Of(server, &found[i].made)
		for _, v := range found[i].verdicts {
			record.Candidates = append(record.Candidates, &decisionv1.Verdict{
				Policy: v.Policy, Digest: v.Digest, Outcome: string(v.Outcome), Reason: string(v.Reason), Rule: v.Rule,
			})
		}
		records = append(records, record)
	}
	return records
}
