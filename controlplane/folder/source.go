package folder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"weir.dev/controlplane/source"
	"weir.dev/policy"
)

// Times of following changes.
const (
	// settle is how long a file must be left alone before it is read, for editors
	// and tools write in several steps. What changes so soon after a change is
	// taken together with what follows within follow.
	settle = 40 * time.Millisecond
	follow = 5 * time.Millisecond
	// settleMost bounds the wait while changes keep coming.
	settleMost = 300 * time.Millisecond
	// grace is how long an object stays after it left its file, or its file left:
	// half of a file is what writing in place, and no file what replacing it, look
	// like for a moment.
	grace = 400 * time.Millisecond
	// lookAgain is how often the end of the two is looked for.
	lookAgain = 50 * time.Millisecond
	// lookSoon is how often the end of being written is looked for.
	lookSoon = 10 * time.Millisecond
	// longScan is how long a scan takes that is not made for every event.
	longScan = 3 * time.Millisecond
	// rescan finds what notifications missed, as on network file systems.
	rescan = 2 * time.Second
)

// Bounds of a folder.
const (
	maxFiles = 10_000
	maxDepth = 16
)

// Config of a Source.
type Config struct {
	// Folders are read recursively; all of them together make one policy.
	Folders []string
	// KeepFile holds the last good objects; empty keeps them in memory only.
	KeepFile string
	Logger   *slog.Logger
}

// Update is what the folders say now.
type Update = source.Update

// Source follows folders. Use New.
type Source struct {
	config Config
	parser *policy.Parser
	keeper *source.Keeper
	files  map[string]*file
	// good are the objects in use since the last build.
	good map[policy.ObjectRef]*policy.Object
	// down names the folders, or folders within them, that could not be read at
	// the last scan.
	down map[string]error
	// unsettled is when a file was first seen while it was being written.
	unsettled map[string]time.Time
	// emitted is set with the first update.
	emitted bool
	// rescan is how often all is looked at, whatever was notified.
	rescan time.Duration
}

// New makes a source and reads what was kept.
func New(config Config, parser *policy.Parser) (*Source, error) {
	s := newSource(config, parser)
	objects, err := s.keeper.Load(parser)
	good := map[policy.ObjectRef]*policy.Object{}
	for _, object := range objects {
		good[object.Ref] = object
	}
	s.remember(good)
	return s, err
}

// Name is "folders" with their paths.
func (s *Source) Name() string { return "folders " + strings.Join(s.config.Folders, ", ") }

func newSource(config Config, parser *policy.Parser) *Source {
	return &Source{
		rescan: rescan,
		config: config, parser: parser, keeper: source.NewKeeper(config.KeepFile, config.Logger), files: map[string]*file{}, good: map[policy.ObjectRef]*policy.Object{},
		down: map[string]error{}, unsettled: map[string]time.Time{},
	}
}

// Run emits what the folders say at once, and again after every change, until
// ctx ends. emit is called from one goroutine; changes that come while it works
// are joined.
func (s *Source) Run(ctx context.Context, emit func(Update)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch folders: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	defer s.keeper.Start()()
	ticker := time.NewTicker(s.rescan)
	defer ticker.Stop()
	s.scan(watcher, time.Now())
	s.offer(emit)
	var busy time.Time
	for {
		var again <-chan time.Time
		switch {
		case len(s.unsettled) > 0:
			again = time.After(lookSoon)
		case s.waiting():
			again = time.After(lookAgain)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again:
		case <-ticker.C:
		case err := <-watcher.Errors:
			s.config.Logger.WarnContext(ctx, "watching folders", "error", err)
		case <-watcher.Events:
			// The first change after quiet is taken at once.
			if time.Since(busy) < settle {
				quiet(ctx, watcher)
			}
		}
		started := time.Now()
		changed := s.scan(watcher, started)
		if changed {
			s.offer(emit)
		}
		if changed || time.Since(started) > longScan {
			busy = time.Now()
		}
	}
}

// offer emits what there is now. Before anything was read there is nothing to
// say: an empty policy would take away what proxies still serve.
func (s *Source) offer(emit func(Update)) {
	update := s.build()
	if !s.emitted && len(s.down) > 0 && len(update.Input.Objects) == 0 {
		for _, problem := range update.Problems {
			s.config.Logger.Error("no policy has been read yet", "file", problem.File, "problem", problem.Message)
		}
		return
	}
	s.emitted = true
	emit(update)
	s.keeper.Keep(slices.Collect(maps.Values(s.good)))
}

// quiet waits until no event came for follow.
func quiet(ctx context.Context, watcher *fsnotify.Watcher) {
	deadline := time.After(settleMost)
	for {
		select {
		case <-ctx.Done():
			return
		case <-deadline:
			return
		case <-watcher.Events:
		case <-time.After(follow):
			return
		}
	}
}

// waiting reports whether something changes by time alone.
func (s *Source) waiting() bool {
	for _, file := range s.files {
		if len(file.leaving) > 0 {
			return true
		}
	}
	return len(s.unsettled) > 0
}

// scan reads what changed and reports whether anything did.
func (s *Source) scan(watcher *fsnotify.Watcher, now time.Time) (changed bool) {
	present, down := map[string]bool{}, map[string]error{}
	for _, folder := range s.config.Folders {
		paths, broken := list(folder, watcher)
		maps.DeleteFunc(broken, func(path string, err error) bool {
			return errors.As(err, new(lostLink)) && !s.held(path)
		})
		maps.Copy(down, broken)
		for _, path := range paths {
			present[path] = true
			if s.settled(path, now) && s.read(path, now) {
				changed = true
			}
		}
	}
	if !slices.Equal(slices.Sorted(maps.Keys(down)), slices.Sorted(maps.Keys(s.down))) {
		changed = true
	}
	s.down = down
	for path, file := range s.files {
		// Everything that a folder held which cannot be read stays as it was.
		if !present[path] && !s.isDown(path) {
			delete(s.unsettled, path)
			changed = s.lose(path, file, now) || changed
		}
		changed = file.expire(now) || changed
		if file.lost && len(file.leaving) == 0 {
			delete(s.files, path)
			changed = true
		}
	}
	return changed
}

// held reports whether objects in force are of files below path.
func (s *Source) held(path string) bool {
	for _, object := range s.good {
		if within(path, object.File) {
			return true
		}
	}
	return false
}

func (s *Source) isDown(path string) bool {
	for folder := range s.down {
		if within(folder, path) {
			return true
		}
	}
	return false
}

func within(folder, path string) bool {
	relative, err := filepath.Rel(folder, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, ".."+string(filepath.Separator))
}
