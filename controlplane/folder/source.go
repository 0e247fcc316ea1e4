package folder

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"weir.dev/policy"
)

// Times of following changes.
const (
	// settle is how long a folder must be quiet before it is read: editors and
	// tools write a file in several steps.
	settle = 40 * time.Millisecond
	// settleMost bounds the wait while changes keep coming.
	settleMost = 300 * time.Millisecond
	// emptyGrace is how long an emptied file keeps its objects: truncating is the
	// first half of writing in place.
	emptyGrace = 500 * time.Millisecond
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
type Update struct {
	Input policy.Input
	// Problems of reading and parsing; references are not looked at here.
	Problems policy.Problems
}

// Source follows folders. Use New.
type Source struct {
	config Config
	parser *policy.Parser
	files  map[string]*file
	good   map[policy.ObjectRef]*policy.Object
	// down names the folders that could not be read at the last scan.
	down map[string]error
}

type file struct {
	stamp     stamp
	documents []policy.Document
	problem   *policy.Problem
	// emptied is when the file was first seen empty after it held something.
	emptied time.Time
}

type stamp struct {
	size    int64
	changed time.Time
	target  string
}

// New makes a source and reads what was kept.
func New(config Config, parser *policy.Parser) (*Source, error) {
	source := &Source{
		config: config, parser: parser,
		files: map[string]*file{}, good: map[policy.ObjectRef]*policy.Object{}, down: map[string]error{},
	}
	return source, source.restore()
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
	ticker := time.NewTicker(rescan)
	defer ticker.Stop()
	s.scan(watcher, time.Now())
	first := s.build()
	s.keep()
	emit(first)
	for {
		var again <-chan time.Time
		if s.waiting() {
			again = time.After(emptyGrace / 4)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again:
		case <-ticker.C:
		case err := <-watcher.Errors:
			s.config.Logger.WarnContext(ctx, "watching folders", "error", err)
		case <-watcher.Events:
			quiet(ctx, watcher)
		}
		if s.scan(watcher, time.Now()) {
			update := s.build()
			s.keep()
			emit(update)
		}
	}
}

// quiet waits until no event came for settle.
func quiet(ctx context.Context, watcher *fsnotify.Watcher) {
	deadline := time.After(settleMost)
	for {
		select {
		case <-ctx.Done():
			return
		case <-deadline:
			return
		case <-watcher.Events:
		case <-time.After(settle):
			return
		}
	}
}

func (s *Source) waiting() bool {
	for _, file := range s.files {
		if !file.emptied.IsZero() {
			return true
		}
	}
	return false
}

// scan reads what changed and reports whether anything did.
func (s *Source) scan(watcher *fsnotify.Watcher, now time.Time) (changed bool) {
	seen := map[string]bool{}
	for _, folder := range s.config.Folders {
		paths, err := list(folder, watcher)
		if wasDown := s.down[folder]; (err == nil) != (wasDown == nil) {
			changed = true
		}
		if err != nil {
			s.down[folder] = err
			// Everything it held stays as it was.
			for path := range s.files {
				if within(folder, path) {
					seen[path] = true
				}
			}
			continue
		}
		delete(s.down, folder)
		for _, path := range paths {
			seen[path] = true
			if s.read(path, now) {
				changed = true
			}
		}
	}
	for path := range s.files {
		if !seen[path] {
			delete(s.files, path)
			changed = true
		}
	}
	return changed
}

func within(folder, path string) bool {
	relative, err := filepath.Rel(folder, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, ".."+string(filepath.Separator))
}

// list walks a folder, following symlinks to files and to folders, and watches
// every folder on the way.
func list(root string, watcher *fsnotify.Watcher) ([]string, error) {
	var paths []string
	var walk func(folder string, depth int) error
	walk = func(folder string, depth int) error {
		if depth > maxDepth {
			return fmt.Errorf("%s: nested deeper than %d folders", folder, maxDepth)
		}
		if watcher != nil {
			// Failing to watch is made up for by the regular scan.
			_ = watcher.Add(folder)
		}
		entries, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			path := filepath.Join(folder, entry.Name())
			if strings.HasPrefix(entry.Name(), ".") {
				continue
			}
			isFolder := entry.IsDir()
			if entry.Type()&fs.ModeSymlink != 0 {
				info, err := os.Stat(path)
				if err != nil {
					continue
				}
				isFolder = info.IsDir()
			}
			if isFolder {
				if err := walk(path, depth+1); err != nil {
					return err
				}
				continue
			}
			if isPolicyFile(entry.Name()) {
				paths = append(paths, path)
			}
		}
		if len(paths) > maxFiles {
			return fmt.Errorf("%s: more than %d policy files", root, maxFiles)
		}
		return nil
	}
	err := walk(root, 0)
	return paths, err
}

func isPolicyFile(name string) bool {
	if name == "kustomization.yaml" || name == "kustomization.yml" {
		return false
	}
	return slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// read takes in a file if it changed, and reports whether it did.
func (s *Source) read(path string, now time.Time) bool {
	known := s.files[path]
	stamp, err := stampOf(path)
	if err == nil && known != nil && known.problem == nil && known.stamp == stamp && known.emptied.IsZero() {
		return false
	}
	var content []byte
	if err == nil {
		content, err = readBounded(path)
	}
	if err != nil {
		if known == nil {
			known = &file{}
			s.files[path] = known
		}
		problem := policy.Problem{
			Origin: policy.Origin{File: path}, Code: policy.CodeYAML, Severity: policy.SeverityError,
			Message: "cannot be read: " + err.Error(),
		}
		same := known.problem != nil && *known.problem == problem
		known.problem = &problem
		return !same
	}
	if len(content) == 0 && known != nil && len(known.documents) > 0 {
		if known.emptied.IsZero() {
			known.emptied = now
		}
		if now.Sub(known.emptied) < emptyGrace {
			return false
		}
	}
	s.files[path] = &file{stamp: stamp, documents: s.parser.Parse(path, content)}
	return true
}

func stampOf(path string) (stamp, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return stamp{}, err
	}
	info, err := os.Stat(target)
	if err != nil {
		return stamp{}, err
	}
	return stamp{size: info.Size(), changed: info.ModTime(), target: target}, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("is not a regular file")
	}
	if info.Size() > policy.MaxFileBytes {
		return nil, fmt.Errorf("has %d bytes; the most is %d", info.Size(), policy.MaxFileBytes)
	}
	return os.ReadFile(path)
}

// build joins the files to one update: good documents as they are, broken ones
// as they last were.
func (s *Source) build() Update {
	b := &builder{good: s.good, used: map[policy.ObjectRef]*policy.Object{}}
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		b.file(path, s.files[path])
	}
	for folder, err := range s.down {
		b.update.Problems = append(b.update.Problems, policy.Problem{
			Origin: policy.Origin{File: folder}, Code: policy.CodeYAML, Severity: policy.SeverityError,
			Message: "the folder cannot be read; what it last held stays in force: " + err.Error(),
		})
		b.retain(func(object *policy.Object) bool { return within(folder, object.File) })
	}
	s.good = b.used
	return b.update
}

type builder struct {
	good, used map[policy.ObjectRef]*policy.Object
	update     Update
}

func (b *builder) add(object *policy.Object) {
	b.update.Input.Objects = append(b.update.Input.Objects, object)
	if _, ok := b.used[object.Ref]; !ok {
		b.used[object.Ref] = object
	}
}

// retain adds the last good objects that hold and are not in use yet.
func (b *builder) retain(hold func(*policy.Object) bool) (protects bool) {
	for ref, object := range b.good {
		if _, ok := b.used[ref]; !ok && hold(object) {
			b.add(object)
			protects = protects || ref.Kind == "AuthPolicy"
		}
	}
	return protects
}

func (b *builder) file(path string, file *file) {
	var nameless []policy.Document
	named := map[policy.ObjectRef]bool{}
	for _, document := range file.documents {
		named[document.Ref] = true
	}
	for _, document := range file.documents {
		b.update.Problems = append(b.update.Problems, document.Problems...)
		switch {
		case document.Object != nil:
			b.add(document.Object)
		case document.Ref.Name == "" || document.Ref.Kind == "":
			nameless = append(nameless, document)
		default:
			b.broken(document)
		}
	}
	if file.problem != nil {
		b.update.Problems = append(b.update.Problems, *file.problem)
	}
	if file.problem == nil && len(nameless) == 0 {
		return
	}
	// What a document without a readable name defined is not known: everything
	// that the file held and that is not there now stays.
	protects := b.retain(func(object *policy.Object) bool { return object.File == path && !named[object.Ref] })
	for _, document := range nameless {
		if document.Closing != nil && !protects {
			b.update.Input.Closings = append(b.update.Input.Closings, *document.Closing)
		}
	}
}

func (b *builder) broken(document policy.Document) {
	if last, ok := b.good[document.Ref]; ok {
		b.add(last)
		return
	}
	if document.Closing != nil {
		b.update.Input.Closings = append(b.update.Input.Closings, *document.Closing)
	}
}
