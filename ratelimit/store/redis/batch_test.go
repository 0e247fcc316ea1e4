package redis

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// held is a batcher whose calls wait until they are let go.
type held struct {
	batcher
	calls   chan []*request
	letGo   chan error
	answers sync.WaitGroup
}

func newHeld(maxWait time.Duration) *held {
	h := &held{calls: make(chan []*request, 100), letGo: make(chan error)}
	h.batcher = batcher{maxBatch: 4, maxQueue: 10, maxCalls: 2, maxWait: maxWait, call: func(batch []*request) {
		h.calls <- batch
		err := <-h.letGo
		for i, r := range batch {
			r.answer(int64(i), r.keys[0], err)
		}
	}}
	return h
}

// send sends a request named key in the background and returns when it is queued
// or under way.
func (h *held) ask(ctx context.Context, key string, err *error, part *string) {
	h.mu.Lock()
	before := len(h.queue) + len(h.calls)
	h.mu.Unlock()
	r := &request{keys: []string{key}, done: make(chan struct{})}
	h.answers.Go(func() {
		if *err = h.send(r); *err == nil {
			*err = r.wait(ctx)
		}
		*part = r.part
	})
	for {
		h.mu.Lock()
		now := len(h.queue) + len(h.calls)
		h.mu.Unlock()
		if now != before {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func names(batch []*request) (all string) {
	for _, r := range batch {
		all += r.keys[0]
	}
	return all
}

func TestWhatComesDuringACallGoesWithTheNext(t *testing.T) {
	h := newHeld(time.Hour)
	errs, parts := make([]error, 6), make([]string, 6)
	h.ask(t.Context(), "0", &errs[0], &parts[0])
	require.Equal(t, "0", names(<-h.calls), "one that comes alone goes at once")
	for i := 1; i < 4; i++ {
		h.ask(t.Context(), strconv.Itoa(i), &errs[i], &parts[i])
	}
	require.Empty(t, h.calls, "while a call is under way")
	h.letGo <- nil
	require.Equal(t, "123", names(<-h.calls))
	h.letGo <- errors.New("broken")
	h.answers.Wait()
	require.NoError(t, errs[0])
	require.Equal(t, "0", parts[0])
	for i := 1; i < 4; i++ {
		require.ErrorContains(t, errs[i], "broken", "an error of the call is one of every request in it")
	}
	h.ask(t.Context(), "5", &errs[5], &parts[5])
	require.Equal(t, "5", names(<-h.calls))
	h.letGo <- nil
	h.answers.Wait()
	require.Equal(t, "5", parts[5])
}

func TestAFullBatchDoesNotWait(t *testing.T) {
	h := newHeld(time.Hour)
	var errs [16]error
	var parts [16]string
	h.ask(t.Context(), "a", &errs[0], &parts[0])
	require.Equal(t, "a", names(<-h.calls))
	for i := 1; i < 5; i++ {
		h.ask(t.Context(), string(rune('a'+i)), &errs[i], &parts[i])
	}
	require.Equal(t, "bcde", names(<-h.calls), "beside the first call")
	for i := 5; i < 15; i++ {
		h.ask(t.Context(), string(rune('a'+i)), &errs[i], &parts[i])
	}
	require.Empty(t, h.calls, "no more than maxCalls at once")
	require.ErrorIs(t, h.send(&request{keys: []string{"z"}}), ErrFull, "and no more than maxQueue wait")
	for range 5 { // the two, and the ten in batches of at most four
		h.letGo <- nil
	}
	h.answers.Wait()
	for i := range 15 {
		require.NoError(t, errs[i])
		require.Equal(t, string(rune('a'+i)), parts[i], "answers come back by position")
	}
}

func TestASlowCallDoesNotHoldUpTheNext(t *testing.T) {
	h := newHeld(time.Millisecond)
	var errs [2]error
	var parts [2]string
	h.ask(t.Context(), "a", &errs[0], &parts[0])
	<-h.calls
	second := &request{keys: []string{"b"}, done: make(chan struct{})}
	require.NoError(t, h.send(second))
	require.Equal(t, "b", names(<-h.calls), "though the first has not ended")
	h.letGo <- nil
	h.letGo <- nil
	h.answers.Wait()
	require.NoError(t, errors.Join(errs[0], second.wait(t.Context())))
}

func TestWhoeverGivesUpInTheQueueIsNotSent(t *testing.T) {
	h := newHeld(time.Hour)
	var errs [3]error
	var parts [3]string
	h.ask(t.Context(), "a", &errs[0], &parts[0])
	<-h.calls
	impatient, cancel := context.WithCancel(t.Context())
	h.ask(impatient, "b", &errs[1], &parts[1])
	h.ask(t.Context(), "c", &errs[2], &parts[2])
	cancel()
	require.Eventually(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.queue[0].gone.Load()
	}, time.Minute, time.Millisecond)
	h.letGo <- nil
	require.Equal(t, "c", names(<-h.calls))
	h.letGo <- nil
	h.answers.Wait()
	require.ErrorIs(t, errs[1], context.Canceled)
	require.NoError(t, errs[2])
}

// A whole batch of those who gave up does not keep those behind them waiting.
func TestWhoWaitsBehindAFullBatchOfGoneIsSent(t *testing.T) {
	h := newHeld(time.Hour)
	var err error
	var part string
	h.ask(t.Context(), "a", &err, &part)
	<-h.calls
	later := &request{keys: []string{"later"}, done: make(chan struct{})}
	h.mu.Lock()
	for range h.maxBatch {
		left := &request{keys: []string{"left"}, done: make(chan struct{})}
		left.gone.Store(true)
		h.queue = append(h.queue, left)
	}
	h.queue = append(h.queue, later)
	h.mu.Unlock()
	h.letGo <- nil
	select {
	case batch := <-h.calls:
		require.Equal(t, "later", names(batch))
	case <-time.After(time.Minute):
		t.Fatal("it was not sent")
	}
	h.letGo <- nil
	h.answers.Wait()
	require.NoError(t, errors.Join(err, later.wait(t.Context())))
}
