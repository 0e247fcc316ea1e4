package proofs_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/internal/proofs"
)

type fixture struct {
	*proofs.Asker
	cache *proofs.Cache
	calls atomic.Int64
}

func asker(t *testing.T) *fixture {
	t.Helper()
	cache, err := proofs.New(1 << 20)
	require.NoError(t, err)
	terms := proofs.Terms{Method: "test", TTL: time.Minute, RefusalTTL: 10 * time.Second, Timeout: time.Minute}
	return &fixture{Asker: proofs.NewAsker(terms, cache, nil), cache: cache}
}

// Prove is what methods do with an asker.
func (f *fixture) Prove(ctx context.Context, now time.Time, credential string, ask func(context.Context) (proofs.Answer, error)) (*extauthz.Proof, error) {
	proof, key, err := f.Remembered(now, credential)
	if proof != nil || err != nil {
		return proof, err
	}
	return f.Ask(ctx, now, key, ask)
}

// says answers every question with a subject, or an error.
func (f *fixture) says(subject string, expires time.Time, err error) func(context.Context) (proofs.Answer, error) {
	return func(context.Context) (proofs.Answer, error) {
		f.calls.Add(1)
		if err != nil {
			return proofs.Answer{}, err
		}
		return proofs.Answer{Proof: &extauthz.Proof{Subject: subject}, Expires: expires}, nil
	}
}

func reason(err error) extauthz.Reason {
	var refusal *extauthz.Refusal
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return ""
}

func TestAnswersAreRememberedUntilTheirEnd(t *testing.T) {
	refused := extauthz.Refuse(extauthz.ReasonTokenInvalid, nil)
	at := authtest.Now()
	for name, test := range map[string]struct {
		expires time.Time
		err     error
		// calls after asking again at each moment.
		after []time.Duration
		calls []int64
	}{
		"cap":              {time.Time{}, nil, []time.Duration{0, 59 * time.Second, time.Minute}, []int64{1, 1, 2}},
		"expiry":           {at.Add(20 * time.Second), nil, []time.Duration{0, 19 * time.Second, 20 * time.Second}, []int64{1, 1, 2}},
		"refusal":          {time.Time{}, refused, []time.Duration{0, 9 * time.Second, 10 * time.Second}, []int64{1, 1, 2}},
		"no answer":        {time.Time{}, errors.New("down"), []time.Duration{0, 0, 0}, []int64{1, 2, 3}},
		"unavailable":      {time.Time{}, extauthz.Refuse(extauthz.ReasonProviderUnavailable, nil), []time.Duration{0, 0}, []int64{1, 2}},
		"clock an hour on": {time.Time{}, nil, []time.Duration{0, time.Hour}, []int64{1, 2}},
		"clock set back":   {time.Time{}, nil, []time.Duration{0, -time.Hour}, []int64{1, 2}},
		"a little earlier": {time.Time{}, nil, []time.Duration{0, -time.Second}, []int64{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			f := asker(t)
			for i, after := range test.after {
				proof, err := f.Prove(t.Context(), at.Add(after), "credential", f.says("alice", test.expires, test.err))
				require.Equal(t, test.err == nil, proof != nil)
				require.Equal(t, test.err == nil, err == nil)
				require.Equal(t, test.calls[i], f.calls.Load(), "at %s", after)
			}
		})
	}
}

func TestOneQuestionForAllWhoWait(t *testing.T) {
	f := asker(t)
	release := make(chan struct{})
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() {
			proof, err := f.Prove(t.Context(), authtest.Now(), "credential", func(context.Context) (proofs.Answer, error) {
				f.calls.Add(1)
				<-release
				return proofs.Answer{Proof: &extauthz.Proof{Subject: "alice"}}, nil
			})
			if err != nil || proof.Subject != "alice" {
				t.Error(proof, err)
			}
		})
	}
	require.Eventually(t, func() bool { return f.calls.Load() == 1 }, 30*time.Second, time.Millisecond)
	// One that gives up does not take the answer from the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Prove(ctx, authtest.Now(), "credential", nil)
	require.Equal(t, extauthz.ReasonProviderUnavailable, reason(err))
	close(release)
	group.Wait()
	require.EqualValues(t, 1, f.calls.Load())
}

func TestSlowProviderGathersNoEndOfQuestions(t *testing.T) {
	f := asker(t)
	release := make(chan struct{})
	var refused atomic.Int64
	var group sync.WaitGroup
	for i := range 300 {
		group.Go(func() {
			_, err := f.Prove(t.Context(), authtest.Now(), fmt.Sprint(i), func(context.Context) (proofs.Answer, error) {
				f.calls.Add(1)
				<-release
				return proofs.Answer{Proof: &extauthz.Proof{}}, nil
			})
			if reason(err) == extauthz.ReasonProviderUnavailable {
				refused.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return refused.Load() == 300-128 }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool { return f.calls.Load() == 128 }, 30*time.Second, time.Millisecond, "those that were let in ask")
	close(release)
	group.Wait()
}

func TestFailingProviderIsLeftAloneAndComesBack(t *testing.T) {
	f, at := asker(t), authtest.Now()
	down := errors.New("down")
	for i := range 100 {
		_, err := f.Prove(t.Context(), at, fmt.Sprint(i), f.says("", time.Time{}, down))
		require.Equal(t, extauthz.ReasonProviderUnavailable, reason(err))
	}
	require.EqualValues(t, 5, f.calls.Load())
	// One question finds out that it still fails, the next ones are not asked.
	for i := range 10 {
		_, err := f.Prove(t.Context(), at.Add(2*time.Second), fmt.Sprint(i), f.says("", time.Time{}, down))
		require.Error(t, err)
	}
	require.EqualValues(t, 6, f.calls.Load())
	// The clock set back by an hour does not keep it closed for an hour.
	_, err := f.Prove(t.Context(), at.Add(-time.Hour), "x", f.says("alice", time.Time{}, nil))
	require.NoError(t, err)
	_, err = f.Prove(t.Context(), at.Add(4*time.Second), "y", f.says("alice", time.Time{}, nil))
	require.NoError(t, err)
	require.EqualValues(t, 8, f.calls.Load())
}

func TestPanicAndSilenceAreNoAnswers(t *testing.T) {
	f := asker(t)
	_, err := f.Prove(t.Context(), authtest.Now(), "a", func(context.Context) (proofs.Answer, error) { panic("boom") })
	require.Equal(t, extauthz.ReasonProviderUnavailable, reason(err))
	_, err = f.Prove(t.Context(), authtest.Now(), "a", func(context.Context) (proofs.Answer, error) { return proofs.Answer{}, nil })
	require.Equal(t, extauthz.ReasonProviderUnavailable, reason(err))
}

func TestWrongCredentialsDoNotPushGoodOnesOut(t *testing.T) {
	f, at := asker(t), authtest.Now()
	_, err := f.Prove(t.Context(), at, "good", f.says("alice", time.Time{}, nil))
	require.NoError(t, err)
	for i := range 30_000 {
		_, err := f.Prove(t.Context(), at, fmt.Sprint(i), f.says("", time.Time{}, extauthz.Refuse(extauthz.ReasonTokenInvalid, nil)))
		require.Error(t, err)
	}
	calls := f.calls.Load()
	_, err = f.Prove(t.Context(), at, "good", f.says("", time.Time{}, errors.New("asked again")))
	require.NoError(t, err)
	require.Equal(t, calls, f.calls.Load())
	kept, refused := f.cache.Len()
	require.Equal(t, 1, kept)
	require.LessOrEqual(t, refused, 11_000)
}

// The bound is by weight: many proofs do not take more room than it says.
func TestRoomIsBounded(t *testing.T) {
	f, at := asker(t), authtest.Now()
	for i := range 10_000 {
		_, err := f.Prove(t.Context(), at, fmt.Sprint(i), f.says("alice", time.Time{}, nil))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { kept, _ := f.cache.Len(); return kept <= (1<<20)/512 }, time.Minute, time.Millisecond)
}
