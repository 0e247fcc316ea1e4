package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config says where a log is kept and for how long.
type Config struct {
	// Dir holds the segments; made if it is not there. One process writes it.
	Dir string
	// SegmentBytes and SegmentAge are when a new segment begins. Defaults 64 MiB
	// and 24 hours.
	SegmentBytes int64
	SegmentAge   time.Duration
	// KeepBytes and KeepAge bound what is kept, by whole segments, the oldest gone
	// first; the newest is always kept. Defaults 10 GiB and 90 days.
	KeepBytes int64
	KeepAge   time.Duration
	// CheckpointEvery bounds how long a record stays without a signature over it.
	// Default 1 second.
	CheckpointEvery time.Duration
	// Queue is how many records may wait for the disk. Default 4096.
	Queue int
	// WarnFreeBytes of the file system start warnings, and with less than
	// MinFreeBytes nothing more is written. Defaults 1 GiB and 64 MiB.
	WarnFreeBytes, MinFreeBytes int64
}

// SetDefaults fills in what is zero.
func (c *Config) SetDefaults() {
	set(&c.SegmentBytes, 64<<20)
	set(&c.SegmentAge, 24*time.Hour)
	set(&c.KeepBytes, 10<<30)
	set(&c.KeepAge, 90*24*time.Hour)
	set(&c.CheckpointEvery, time.Second)
	set(&c.Queue, 4096)
	set(&c.WarnFreeBytes, 1<<30)
	set(&c.MinFreeBytes, 64<<20)
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports every mistake.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, field, bounds string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: is outside %s", field, bounds))
		}
	}
	if c.Dir == "" {
		errs = append(errs, errors.New("dir: is required"))
	}
	check(c.SegmentBytes >= 64<<10 && c.SegmentBytes <= 4<<30, "segmentBytes", "64 KiB to 4 GiB")
	check(c.SegmentAge >= time.Minute && c.SegmentAge <= 31*24*time.Hour, "segmentAge", "1m to 744h")
	check(c.KeepBytes >= 2*c.SegmentBytes, "keepBytes", "twice segmentBytes and more")
	check(c.KeepAge >= c.SegmentAge, "keepAge", "segmentAge and more")
	check(c.CheckpointEvery >= 10*time.Millisecond && c.CheckpointEvery <= time.Hour, "checkpointEvery", "10ms to 1h")
	check(c.Queue >= 1 && c.Queue <= 1<<20, "queue", "1 to 1,048,576")
	check(c.WarnFreeBytes >= c.MinFreeBytes && c.MinFreeBytes >= 0, "warnFreeBytes", "minFreeBytes and more")
	return errors.Join(errs...)
}

// Events hears what a log does, for metrics. Its methods are called by one
// goroutine at a time and must not block.
type Events interface {
	// AuditCommitted tells of records that are on disk, and how long writing and
	// syncing them took.
	AuditCommitted(records int, took time.Duration)
	// AuditFailed tells of records that were not written.
	AuditFailed(records int)
	// AuditSize is how many records the log has ever had.
	AuditSize(records int64)
	// AuditFree is what is left of the file system, in bytes.
	AuditFree(bytes int64)
	// AuditHealthy is false while nothing can be written.
	AuditHealthy(healthy bool)
}

// Options are what the process gives to its log.
type Options struct {
	Key    *Key
	Events Events
	Logger *slog.Logger
	// Clock is time.Now outside tests.
	Clock func() time.Time
	// files is the disk outside tests.
	files files
}
