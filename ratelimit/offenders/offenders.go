package offenders

import (
	"cmp"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir.dev/ratelimit"
)

// Bounds of what is remembered.
const (
	// Keys is how many keys are kept of one rule.
	Keys = 20
	// MaxRules is how many rules are remembered at once; of those beyond, nothing
	// is until others are quiet.
	MaxRules = 2000
	// maxValueBytes is how much is kept of one value.
	maxValueBytes = 256
	halveEvery    = 30 * time.Minute
	// logEvery is how often one rule's being near its limit is logged.
	logEvery = time.Minute
)

// Near is the part of a limit from which on what is admitted counts as near it.
const Near = 0.8

// Observer counts near-limit events. It must not block.
type Observer interface {
	NearLimit(rule string)
}

// Offender is a key that was refused.
type Offender struct {
	Entries []ratelimit.Entry
	// Refused is never too low, and too high by at most Error.
	Refused, Error uint64
	Last           time.Time
}

// Watch is fed with decisions. Safe for concurrent use.
type Watch struct {
	logger   *slog.Logger
	observer Observer
	clock    func() time.Time

	mu    sync.Mutex
	rules map[string]*rule
}

// New makes a watch. observer may be nil; clock is time.Now if nil.
func New(logger *slog.Logger, observer Observer, clock func() time.Time) *Watch {
	if clock == nil {
		clock = time.Now
	}
	return &Watch{logger: logger, observer: observer, clock: clock, rules: map[string]*rule{}}
}

// rule is what is remembered of one.
type rule struct {
	mu     sync.Mutex
	halved time.Time
	keys   map[string]*Offender
	logged time.Time
	near   uint64
}

// Watched takes notice of one decision: a refusal, also of a limit in the
// shadow, or an admission near the limit. Others cost nothing.
func (w *Watch) Watched(entries []ratelimit.Entry, status *ratelimit.Status) {
	if status.Limit.Unlimited {
		return
	}
	switch status.Event {
	case ratelimit.Refused, ratelimit.ShadowRefused:
		if r := w.rule(status.Rule.ID); r != nil {
			r.refused(entries, w.clock())
		}
	case ratelimit.Admitted:
		if NearLimit(status) {
			w.near(status.Rule.ID)
		}
	default:
	}
}

// NearLimit reports whether a decision leaves less than the part of its limit
// beyond Near.
func NearLimit(status *ratelimit.Status) bool {
	return float64(status.Decision.Remaining) < float64(status.Limit.Capacity())*(1-Near)
}

// near counts an event, and logs the first of each minute. The key is not
// logged: it can hold an address.
func (w *Watch) near(id string) {
	if w.observer != nil {
		w.observer.NearLimit(id)
	}
	r := w.rule(id)
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.near++
	if now := w.clock(); now.Sub(r.logged) >= logEvery {
		w.logger.Info("a rate limit is nearly used up by at least one of its keys", "rule", id, "admitted_near_limit", r.near)
		r.logged, r.near = now, 0
	}
}

// rule finds or makes what is remembered of a rule; nil when there is no room.
func (w *Watch) rule(id string) *rule {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.rules[id]
	if r == nil && len(w.rules) < MaxRules {
		r = &rule{keys: map[string]*Offender{}, halved: w.clock()}
		w.rules[id] = r
	}
	return r
}

// Keep forgets the rules that are no longer in the table.
func (w *Watch) Keep(table *ratelimit.Table) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.rules {
		if table.Rule(id) == nil {
			delete(w.rules, id)
		}
	}
}

// Forget drops a key of a rule, when its counter was reset.
func (w *Watch) Forget(id string, entries []ratelimit.Entry) {
	w.mu.Lock()
	r := w.rules[id]
	w.mu.Unlock()
	if r != nil {
		r.mu.Lock()
		delete(r.keys, keyOf(entries))
		r.mu.Unlock()
	}
}

// Top lists the keys of a rule that were refused most, the most first.
func (w *Watch) Top(id string) []Offender {
	w.mu.Lock()
	r := w.rules[id]
	w.mu.Unlock()
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.age(w.clock())
	top := make([]Offender, 0, len(r.keys))
	for _, offender := range r.keys {
		top = append(top, *offender)
	}
	slices.SortFunc(top, func(a, b Offender) int {
		return cmp.Or(-cmp.Compare(a.Refused, b.Refused), strings.Compare(keyOf(a.Entries), keyOf(b.Entries)))
	})
	return top
}

func (r *rule) refused(entries []ratelimit.Entry, now time.Time) {
	key := keyOf(entries)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.age(now)
	if known := r.keys[key]; known != nil {
		known.Refused++
		known.Last = now
		return
	}
	made := &Offender{Entries: shortened(entries), Refused: 1, Last: now}
	if len(r.keys) >= Keys {
		least, of := r.least()
		delete(r.keys, least)
		made.Refused, made.Error = of.Refused+1, of.Refused
	}
	r.keys[key] = made
}

func (r *rule) least() (key string, least *Offender) {
	for candidate, offender := range r.keys {
		if least == nil || offender.Refused < least.Refused || offender.Refused == least.Refused && offender.Last.Before(least.Last) {
			key, least = candidate, offender
		}
	}
	return key, least
}

// age halves the counts once for each half hour that went by.
func (r *rule) age(now time.Time) {
	for times := 0; now.Sub(r.halved) >= halveEvery; times++ {
		if times == 64 { // Nothing is left of any count.
			r.halved = now
			return
		}
		r.halved = r.halved.Add(halveEvery)
		for key, offender := range r.keys {
			offender.Refused, offender.Error = offender.Refused/2, offender.Error/2
			if offender.Refused == 0 {
				delete(r.keys, key)
			}
		}
	}
}

// keyOf tells keys apart; those that only differ beyond what is kept are one.
func keyOf(entries []ratelimit.Entry) string {
	var text strings.Builder
	for _, entry := range entries {
		if said(entry) {
			continue
		}
		name, value := shorten(entry.Name), shorten(entry.Value)
		text.WriteString(strconv.Itoa(len(name)) + ":" + name + strconv.Itoa(len(value)) + ":" + value)
	}
	return text.String()
}

func shortened(entries []ratelimit.Entry) []ratelimit.Entry {
	short := make([]ratelimit.Entry, 0, len(entries))
	for _, entry := range entries {
		if !said(entry) {
			short = append(short, ratelimit.Entry{Name: strings.Clone(shorten(entry.Name)), Value: strings.Clone(shorten(entry.Value))})
		}
	}
	return short
}

// said reports whether an entry says something of a request, such as its cost,
// and is not counted by.
func said(entry ratelimit.Entry) bool { return strings.HasPrefix(entry.Name, "weir.") }

// shorten bounds a text, and keeps it UTF-8.
func shorten(text string) string {
	if len(text) <= maxValueBytes {
		return strings.ToValidUTF8(text, "\uFFFD")
	}
	return strings.ToValidUTF8(text[:maxValueBytes], "") + "…"
}
