package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const origin = "weir.test/audit"

// counter implements Events.
type counter struct {
	committed, failed atomic.Int64
	healthy           atomic.Bool
}

func (c *counter) AuditCommitted(records int, _ time.Duration) { c.committed.Add(int64(records)) }
func (c *counter) AuditFailed(records int)                     { c.failed.Add(int64(records)) }
func (c *counter) AuditSize(int64)                             {}
func (c *counter) AuditFree(int64)                             {}
func (c *counter) AuditHealthy(healthy bool)                   { c.healthy.Store(healthy) }

// flaky is a disk whose failures a test chooses.
type flaky struct {
	disk
	full, syncFails atomic.Bool
	free            atomic.Int64
}

type flakyFile struct {
	file
	disk *flaky
}

func (f *flaky) Append(path string) (file, error) {
	opened, err := f.disk.Append(path)
	return &flakyFile{opened, f}, err
}

func (f *flaky) Free(dir string) (int64, error) {
	if free := f.free.Load(); free > 0 {
		return free, nil
	}
	return f.disk.Free(dir)
}

// Write leaves half of what it is given when the disk is full.
func (f *flakyFile) Write(content []byte) (int, error) {
	if !f.disk.full.Load() {
		return f.file.Write(content)
	}
	n, _ := f.file.Write(content[:len(content)/2])
	return n, syscall.ENOSPC
}

func (f *flakyFile) Sync() error {
	if f.disk.syncFails.Load() {
		return syscall.EIO
	}
	return f.file.Sync()
}

type fixture struct {
	*Log
	dir    string
	key    *Key
	events *counter
	disk   *flaky
	clock  atomic.Int64
}

func keyOf(t testing.TB) *Key {
	t.Helper()
	key, err := OpenKey(filepath.Join(t.TempDir(), "keys"), origin)
	require.NoError(t, err)
	return key
}

func open(t testing.TB, dir string, key *Key, change func(*Config)) *fixture {
	t.Helper()
	config := Config{Dir: dir, WarnFreeBytes: 1, MinFreeBytes: 1}
	if change != nil {
		change(&config)
	}
	f := &fixture{dir: dir, key: key, events: &counter{}, disk: &flaky{}}
	f.clock.Store(time.Now().UnixNano())
	log, err := Open(config, Options{Key: key, Events: f.events, files: f.disk, Clock: func() time.Time { return time.Unix(0, f.clock.Load()) }})
	require.NoError(t, err)
	f.Log = log
	t.Cleanup(log.Close)
	return f
}

func (f *fixture) append(t testing.TB, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, f.Append(t.Context(), fmt.Appendf(nil, `{"n":%d}`, i)))
	}
}

func verify(t testing.TB, dir string, key *Key, checkpoints ...string) *Report {
	t.Helper()
	report, err := Verify(dir, VerifyOptions{Keys: []string{key.Public()}, Checkpoints: checkpoints})
	require.NoError(t, err)
	return report
}

func saved(t testing.TB, dir string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, checkpointFile))
	require.NoError(t, err)
	return string(content)
}

func records(t testing.TB, dir string) (found []string) {
	t.Helper()
	require.NoError(t, Read(t.Context(), dir, ReadOptions{}, func(_ int64, record []byte) error {
		if !bytes.HasPrefix(record, []byte(`{"event"`)) {
			found = append(found, string(record))
		}
		return nil
	}))
	return found
}

func TestAppendAndVerify(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), nil)
	f.append(t, 0, 50)
	f.Close()
	report := verify(t, f.dir, f.key, saved(t, f.dir))
	require.Empty(t, report.Findings)
	require.EqualValues(t, 51, report.Size, "with the event of the opening")
	require.Zero(t, report.Unsigned)
	require.Equal(t, 1, report.Openings)
	require.Len(t, records(t, f.dir), 50)
	require.ErrorIs(t, f.Append(t.Context(), []byte(`{}`)), ErrUnavailable, "it is closed")

	again := open(t, f.dir, f.key, nil)
	again.append(t, 50, 60)
	again.Close()
	report = verify(t, f.dir, f.key)
	require.Empty(t, report.Findings)
	require.EqualValues(t, 62, report.Size)
	require.Equal(t, 2, report.Openings)
}

// Many writers share commits, and whoever is told so finds its record on disk.
func TestManyWritersAreAllThere(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), func(c *Config) { c.SegmentBytes = 64 << 10 })
	const writers, each = 32, 100
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				if err := f.Append(t.Context(), fmt.Appendf(nil, `{"w":%d,"i":%d}`, w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	found := records(t, f.dir) // before anything is closed: it is on disk
	require.Len(t, found, writers*each)
	next := map[int]int{}
	for _, record := range found {
		var w, i int
		_, err := fmt.Sscanf(record, `{"w":%d,"i":%d}`, &w, &i)
		require.NoError(t, err)
		require.Equal(t, next[w], i, "each writer's records are in its order")
		next[w]++
	}
	f.Close()
	report := verify(t, f.dir, f.key)
	require.Empty(t, report.Findings)
	require.Greater(t, report.Files, 2)
}

func TestRotationAndRetention(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), func(c *Config) { c.SegmentBytes, c.KeepBytes = 64<<10, 128<<10 })
	early := ""
	for i := range 600 {
		require.NoError(t, f.Append(t.Context(), []byte(`{"text":"`+strings.Repeat("x", 1000)+`"}`)))
		if i == 10 {
			f.clock.Add(int64(2 * time.Second))
			f.append(t, 0, 1)
			early = saved(t, f.dir)
		}
	}
	f.Close()
	report := verify(t, f.dir, f.key, early)
	require.Empty(t, report.Findings)
	require.Positive(t, report.First, "the oldest are gone")
	require.Less(t, report.Files, 5)
	require.Contains(t, strings.Join(report.Notes, " "), "only those from")

	old := open(t, f.dir, f.key, func(c *Config) { c.SegmentBytes, c.KeepBytes = 64<<10, 128<<10 })
	old.clock.Add(int64(25 * time.Hour))
	before := report.Files
	old.append(t, 0, 1)
	old.Close()
	require.NotEqual(t, before, 0)
	require.Empty(t, verify(t, f.dir, f.key).Findings)
}

// A disk that is full refuses and loses nothing that it promised.
func TestFullDisk(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), nil)
	f.append(t, 0, 5)
	f.disk.full.Store(true)
	require.ErrorIs(t, f.Append(t.Context(), []byte(`{"n":"lost"}`)), ErrUnavailable)
	require.ErrorIs(t, f.Append(t.Context(), []byte(`{"n":"lost"}`)), syscall.ENOSPC)
	require.False(t, f.Healthy())
	require.False(t, f.Offer([]byte(`{}`)))
	f.disk.full.Store(false)
	f.append(t, 5, 10)
	require.True(t, f.Healthy())
	f.Close()
	require.Len(t, records(t, f.dir), 10)
	report := verify(t, f.dir, f.key)
	require.Empty(t, report.Findings)
	require.Zero(t, report.Recoveries, "what was written in part is cut off at once")
	require.EqualValues(t, 2, f.events.failed.Load())
}

func TestLittleSpace(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), func(c *Config) { c.MinFreeBytes, c.WarnFreeBytes = 1000, 2000 })
	f.append(t, 0, 1)
	f.disk.free.Store(999)
	f.clock.Add(int64(2 * time.Second))
	require.ErrorContains(t, f.Append(t.Context(), []byte(`{}`)), "999 bytes are free")
	f.disk.free.Store(1500)
	f.append(t, 1, 2)
	f.Close()
	require.Empty(t, verify(t, f.dir, f.key).Findings)
}

// After a failed sync nobody knows what is on disk: the record is refused and the
// log is read anew.
func TestFailedSync(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), nil)
	f.append(t, 0, 5)
	f.disk.syncFails.Store(true)
	require.ErrorIs(t, f.Append(t.Context(), []byte(`{"n":"unknown"}`)), syscall.EIO)
	require.ErrorIs(t, f.Append(t.Context(), []byte(`{"n":"lost"}`)), ErrUnavailable)
	f.disk.syncFails.Store(false)
	f.clock.Add(int64(2 * time.Second))
	f.append(t, 5, 10)
	f.Close()
	require.Empty(t, verify(t, f.dir, f.key).Findings)
	require.NotContains(t, strings.Join(records(t, f.dir), ""), "lost")
}

func TestWaitingEnds(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := f.Append(ctx, []byte(`{}`))
	require.True(t, err == nil || errors.Is(err, ErrUnavailable), err)
	for _, bad := range []string{"", "x", "{\n}", `{"a":"` + strings.Repeat("x", MaxRecordBytes) + `"}`} {
		require.Error(t, f.Append(t.Context(), []byte(bad)))
		require.False(t, f.Offer([]byte(bad)))
	}
}

func TestOneWriter(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), nil)
	_, err := Open(Config{Dir: f.dir}, Options{Key: f.key, Events: f.events})
	require.ErrorContains(t, err, "another process")
	f.Close()
	other, err := Open(Config{Dir: f.dir}, Options{Key: f.key, Events: f.events})
	require.NoError(t, err, "negative control")
	other.Close()
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	key, err := OpenKey(dir, origin)
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, privateFile))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	again, err := OpenKey(dir, origin)
	require.NoError(t, err)
	require.Equal(t, key.Public(), again.Public())
	_, err = OpenKey(dir, "another")
	require.ErrorContains(t, err, "not of")
	require.NoError(t, os.Chmod(filepath.Join(dir, privateFile), 0o640))
	_, err = OpenKey(dir, origin)
	require.ErrorContains(t, err, "may be read by others")
	_, err = OpenKey(t.TempDir(), "with space")
	require.Error(t, err)
}

func TestConfig(t *testing.T) {
	var c Config
	err := c.Validate()
	for _, field := range []string{"dir", "segmentBytes", "segmentAge", "checkpointEvery", "queue"} {
		require.ErrorContains(t, err, field)
	}
	c.Dir = "x"
	c.SetDefaults()
	require.NoError(t, c.Validate())
}
