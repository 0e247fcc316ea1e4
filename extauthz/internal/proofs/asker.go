package proofs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"weir.dev/extauthz"
)

// Bounds of what one provider is asked.
const (
	// maxUnderWay bounds the questions to one provider at a time: a slow one must
	// not gather requests without end.
	maxUnderWay = 128
	// failuresToOpen in a row keep a provider from being asked for openFor, but
	// for one question at a time that finds out whether it is back.
	failuresToOpen = 5
	openFor        = time.Second
)

// Errors of a provider that is not asked.
var (
	errBusy = fmt.Errorf("%d questions are under way", maxUnderWay)
	errOpen = fmt.Errorf("it failed %d times in a row and is left alone for %s", failuresToOpen, openFor)
)

// Events hears what happens, for metrics. Methods are called concurrently and
// must not block.
type Events interface {
	// CredentialCache is called for each look-up: "hit", "negative" or "miss".
	CredentialCache(method, outcome string)
	// Asked is called after each question: "ok", "refused" or "unavailable".
	Asked(method, outcome string, took time.Duration)
}

// Terms are what is asked, of whom, and for how long answers count.
type Terms struct {
	// Method names the method, for metrics.
	Method string
	// Digest tells providers apart.
	Digest [sha256.Size]byte
	// TTL and RefusalTTL bound how long answers are remembered.
	TTL, RefusalTTL time.Duration
	// Timeout bounds one question.
	Timeout time.Duration
}

// Answer is what a provider said.
type Answer struct {
	Proof *extauthz.Proof
	// Expires is when the credential does; zero means that it was not said.
	Expires time.Time
	// Size of the answer in bytes.
	Size int
}

// Asker asks one provider. Safe for concurrent use.
type Asker struct {
	terms  Terms
	cache  *Cache
	events Events
	flight singleflight.Group
	slots  chan struct{}

	mu       sync.Mutex
	failures int
	opened   time.Time
	probing  bool
}

// NewAsker makes an asker over a cache that others share; events may be nil.
func NewAsker(terms Terms, cache *Cache, events Events) *Asker {
	if events == nil {
		events = noEvents{}
	}
	return &Asker{terms: terms, cache: cache, events: events, slots: make(chan struct{}, maxUnderWay)}
}

type noEvents struct{}

func (noEvents) CredentialCache(string, string)      {}
func (noEvents) Asked(string, string, time.Duration) {}

// Remembered returns what is remembered of a credential: a proof, a refusal, or
// two nils, and then its key, for Ask.
func (a *Asker) Remembered(now time.Time, credential string) (*extauthz.Proof, Key, error) {
	key := Key{Credential: Sum(credential), Terms: a.terms.Digest}
	proof, err := a.cache.Find(&key, now)
	switch {
	case proof != nil:
		a.events.CredentialCache(a.terms.Method, "hit")
	case err != nil:
		a.events.CredentialCache(a.terms.Method, "negative")
	default:
		a.events.CredentialCache(a.terms.Method, "miss")
	}
	return proof, key, err
}

// Ask returns what ask finds out about the credential of a key. ask is called
// once for all who wait, under its own deadline, so that one caller's end does not
// fail the others. An error of ask that wraps an *extauthz.Refusal is the
// provider's answer; any other, and one whose reason is
// IDENTITY_PROVIDER_UNAVAILABLE, says that there was none, and is not remembered.
func (a *Asker) Ask(ctx context.Context, now time.Time, key Key, ask func(ctx context.Context) (Answer, error)) (*extauthz.Proof, error) {
	done := a.flight.DoChan(string(key.Credential[:]), func() (any, error) {
		// Another flight may have landed between the look-up and this one.
		if proof, err := a.cache.Find(&key, now); proof != nil || err != nil {
			return proof, err //nolint:nilnil // never both nil here
		}
		return a.ask(context.WithoutCancel(ctx), now, key, ask)
	})
	select {
	case result := <-done:
		if proof, _ := result.Val.(*extauthz.Proof); proof != nil && result.Err == nil {
			return proof, nil
		}
		return nil, result.Err
	case <-ctx.Done():
		return nil, unavailable(ctx.Err())
	}
}

func unavailable(cause error) error {
	return extauthz.Refuse(extauthz.ReasonProviderUnavailable, cause)
}

func (a *Asker) ask(ctx context.Context, now time.Time, key Key, ask func(ctx context.Context) (Answer, error)) (*extauthz.Proof, error) {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	default:
		return nil, unavailable(errBusy)
	}
	if !a.enter(now) {
		return nil, unavailable(errOpen)
	}
	started := time.Now()
	limited, cancel := context.WithTimeout(ctx, a.terms.Timeout)
	defer cancel()
	answer, err := guarded(limited, ask)
	took := time.Since(started)
	var refusal *extauthz.Refusal
	answered := err == nil || errors.As(err, &refusal) && refusal.Reason != extauthz.ReasonProviderUnavailable
	a.leave(answered, now.Add(took))
	life := Life{Now: now, TTL: a.terms.TTL, Expires: answer.Expires}
	switch {
	case err == nil:
		a.events.Asked(a.terms.Method, "ok", took)
		a.cache.Keep(&key, answer.Proof, answer.Size, life)
		return answer.Proof, nil
	case answered:
		a.events.Asked(a.terms.Method, "refused", took)
		a.cache.Refuse(&key, err, Life{Now: now, TTL: a.terms.RefusalTTL})
		return nil, err
	case refusal != nil:
		a.events.Asked(a.terms.Method, "unavailable", took)
		return nil, err
	}
	a.events.Asked(a.terms.Method, "unavailable", took)
	return nil, unavailable(err)
}

// guarded makes a panic an error: nobody above it would catch it, since questions
// are asked apart from the requests that wait for them.
func guarded(ctx context.Context, ask func(ctx context.Context) (Answer, error)) (answer Answer, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			answer, err = Answer{}, fmt.Errorf("panic: %v", cause)
		}
	}()
	answer, err = ask(ctx)
	if err == nil && answer.Proof == nil {
		err = errors.New("said nothing")
	}
	return answer, err
}

// enter reports whether the provider may be asked now.
func (a *Asker) enter(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failures < failuresToOpen {
		return true
	}
	since := now.Sub(a.opened)
	// Much before its beginning: the clock was set back.
	if a.probing || -time.Minute <= since && since < openFor {
		return false
	}
	a.probing = true
	return true
}

func (a *Asker) leave(answered bool, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probing = false
	if answered {
		a.failures = 0
		return
	}
	a.failures++
	a.opened = now
}
