package livekeys

import (
	"time"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
)

// confirmEvery is how often the file learns that the service was heard of when
// nothing changes.
const confirmEvery = time.Minute

// Apply takes one batch of the feed. A batch with keys is in the file before it
// is in effect; where the file can't be written, it is in effect all the same,
// and the file is tried again with the next batch.
func (s *Store) Apply(batch *keysv1.WatchApiKeysResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Clock()
	next, whole, err := s.next(batch)
	if err != nil {
		s.pending = nil
		return err
	}
	if !whole {
		return nil
	}
	s.save(batch, next, now)
	s.put(batch, next, now)
	return nil
}

// next is the table after a batch; whole is false while a reset goes on.
func (s *Store) next(batch *keysv1.WatchApiKeysResponse) (next *table, whole bool, err error) {
	base := s.current.Load()
	switch {
	case batch.GetReset_():
		base = &table{}
	case s.pending != nil:
		base = s.pending
	}
	next = base
	if len(batch.GetKeys()) > 0 || batch.GetReset_() {
		if next, err = base.with(batch.GetKeys()); err != nil {
			return nil, false, err
		}
	}
	if (batch.GetReset_() || s.pending != nil) && batch.GetMore() {
		s.pending = next
		return nil, false, nil
	}
	return next, true, nil
}

// put brings a table into effect; s.mu is held.
func (s *Store) put(batch *keysv1.WatchApiKeysResponse, next *table, at time.Time) {
	before := s.current.Load()
	if s.pending != nil || batch.GetReset_() {
		next.all(func(digest [32]byte, key *issued) bool {
			if earlier := before.find(digest); earlier != nil {
				key.Inherit(earlier)
			}
			return true
		})
	}
	s.pending = nil
	s.current.Store(next)
	s.epoch, s.version = batch.GetEpoch(), batch.GetVersion()
	s.confirmed.Store(at.UnixMicro())
	if next.count != before.count {
		s.options.Events.IssuedKeys(next.count)
	}
}

// save writes what a batch changes; s.mu is held.
func (s *Store) save(batch *keysv1.WatchApiKeysResponse, next *table, now time.Time) {
	if s.file == nil {
		return
	}
	var err error
	switch reset := batch.GetReset_() || s.pending != nil; {
	case reset, s.file.behind, s.file.full():
		err = s.file.rewrite(snapshot(batch, next), now)
	case len(batch.GetKeys()) > 0, now.Sub(s.saved) >= confirmEvery:
		err = s.file.append(batch, now)
	default:
		return
	}
	if s.file.behind = err != nil; err != nil {
		s.options.Logger.Error("issued API keys can't be kept on disk: a revocation that is in effect now would not survive a restart while the user service is away",
			"path", s.file.path, "error", err)
	} else {
		s.saved = now
	}
	s.options.Events.KeysSaved(err)
}

// replay takes one batch out of the file.
func (s *Store) replay(batch *keysv1.WatchApiKeysResponse, at time.Time) error {
	next, whole, err := s.next(batch)
	if err != nil {
		return err
	}
	if whole {
		s.put(batch, next, at)
	}
	return nil
}
