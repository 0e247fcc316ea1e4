package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of one commit.
const (
	maxBatchRecords = 1024
	maxBatchBytes   = 1 << 20
	// retryEvery is how long after a failure the disk is tried again.
	retryEvery = time.Second
	// lookEvery is how often the free space is looked at.
	lookEvery = time.Second
)

// ErrUnavailable says that a record is not in the log, and why.
var ErrUnavailable = errors.New("the audit log cannot be written")

// ErrDamaged says that what is on disk is not what was written.
var ErrDamaged = errors.New("the audit log is damaged")

// entry is a record that waits.
type entry struct {
	record []byte
	// done hears nil once the record is on disk; nil when nobody waits.
	done chan error
}

// Log is the writer of one log. Safe for concurrent use.
type Log struct {
	config  Config
	options Options
	queue   chan entry
	quit    chan struct{}
	stopped chan struct{}
	once    sync.Once
	lock    *os.File
	healthy atomic.Bool
	size    atomic.Int64

	// Of the writing goroutine only.
	out writing
}

// writing is where the log stands.
type writing struct {
	tree *tree
	file file
	path string
	// offset is the length of the file up to which all is good.
	offset int64
	began  time.Time
	// signed is the size of the newest checkpoint, and signedAt when it was made.
	signed   int64
	signedAt time.Time
	// broken is why nothing is written, and retry when to try again.
	broken  error
	retry   time.Time
	looked  time.Time
	scarce  bool
	pending []byte
}

// Open opens the log of a folder, or begins one, and seals what a crash left
// unfinished. A folder that cannot be written, or that is damaged, is an error of
// Append and not of Open, and is tried again: whoever needs no record is served.
// An error here is one of the configuration.
func Open(config Config, options Options) (*Log, error) {
	config.SetDefaults()
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if options.Key == nil || options.Events == nil {
		return nil, errors.New("a log needs a key and somebody to tell")
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	if options.files == nil {
		options.files = disk{}
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDir(config.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{
		config: config, options: options, queue: make(chan entry, config.Queue),
		quit: make(chan struct{}), stopped: make(chan struct{}), lock: lock,
	}
	l.reopen()
	go l.run()
	return l, nil
}

// Append returns once record, a JSON object in one line, is on disk; an error
// means that it is not known to be, and wraps ErrUnavailable unless the record
// itself cannot be taken. It waits for the disk, never past ctx.
func (l *Log) Append(ctx context.Context, record []byte) error {
	if err := acceptable(record); err != nil {
		return err
	}
	done := make(chan error, 1)
	select {
	case l.queue <- entry{record, done}:
	case <-l.quit:
		return fmt.Errorf("%w: it is closed", ErrUnavailable)
	case <-ctx.Done():
		return fmt.Errorf("%w: the queue of records that wait for the disk is full: %w", ErrUnavailable, ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-l.stopped:
		select {
		case err := <-done:
			return err
		default:
			return fmt.Errorf("%w: it is closed", ErrUnavailable)
		}
	case <-ctx.Done():
		return fmt.Errorf("%w: the disk did not answer in time: %w", ErrUnavailable, ctx.Err())
	}
}

// Offer has a record written soon, and reports false where that is not to be.
// It doesn't wait.
func (l *Log) Offer(record []byte) bool {
	if acceptable(record) != nil || !l.healthy.Load() {
		return false
	}
	select {
	case <-l.quit:
		return false
	default:
	}
	select {
	case l.queue <- entry{record: record}:
		return true
	default:
		return false
	}
}

// Healthy reports whether the newest attempt to write went well.
func (l *Log) Healthy() bool { return l.healthy.Load() }

// Size is how many records the log has ever had.
func (l *Log) Size() int64 { return l.size.Load() }

// Close writes what waits, signs a last checkpoint and ends the log. It can be
// called more than once.
func (l *Log) Close() {
	l.once.Do(func() { close(l.quit) })
	<-l.stopped
}

func acceptable(record []byte) error {
	if len(record) < 2 || len(record) > MaxRecordBytes || record[0] != '{' || record[len(record)-1] != '}' {
		return fmt.Errorf("a record is a JSON object of at most %d bytes; this one has %d", MaxRecordBytes, len(record))
	}
	for _, c := range record {
		if c == '\n' {
			return errors.New("a record is one line")
		}
	}
	return nil
}

func (l *Log) run() {
	defer func() {
		l.closeFile()
		_ = l.lock.Close()
		close(l.stopped)
	}()
	ticker := time.NewTicker(l.config.CheckpointEvery / 2)
	defer ticker.Stop()
	batch := make([]entry, 0, maxBatchRecords)
	for {
		select {
		case first := <-l.queue:
			batch = l.gather(append(batch[:0], first))
			l.commit(batch)
		case <-ticker.C:
			l.commit(nil)
		case <-l.quit:
			for len(l.queue) > 0 {
				l.commit(l.gather(append(batch[:0], <-l.queue)))
			}
			l.out.signedAt = time.Time{}
			l.commit(nil)
			return
		}
	}
}

// gather takes what has come while the last batch was written.
func (l *Log) gather(batch []entry) []entry {
	size := len(batch[0].record)
	for len(batch) < maxBatchRecords && size < maxBatchBytes {
		select {
		case next := <-l.queue:
			batch = append(batch, next)
			size += len(next.record)
		default:
			return batch
		}
	}
	return batch
}

// commit writes a batch and tells those who wait.
func (l *Log) commit(batch []entry) {
	started := time.Now()
	err := l.write(batch)
	for _, waiting := range batch {
		if waiting.done != nil {
			waiting.done <- err
		}
	}
	if (err == nil) != l.healthy.Load() {
		l.healthy.Store(err == nil)
		l.options.Events.AuditHealthy(err == nil)
		if err != nil {
			l.options.Logger.Error("audit log cannot be written; requests that need a record are refused", "code", "WEIR5301", "dir", l.config.Dir, "error", err)
		} else {
			l.options.Logger.Info("audit log is written again", "dir", l.config.Dir)
		}
	}
	switch {
	case err != nil:
		l.options.Events.AuditFailed(len(batch))
	case len(batch) > 0:
		l.options.Events.AuditCommitted(len(batch), time.Since(started))
	}
}
