package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// list walks a folder, following symlinks to files and to folders, each folder
// once, and watches every folder on the way. broken says which of them could not
// be read; the others are listed nevertheless. Among them are, as a lostLink, links
// that lead nowhere, which matter only to who knows what they led to.
func list(root string, watcher *fsnotify.Watcher) (paths []string, broken map[string]error) {
	w := &walk{watcher: watcher, visited: map[string]bool{}, broken: map[string]error{}}
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, map[string]error{root: err}
	}
	if w.folder(root, real, 0); w.tooMany {
		return nil, map[string]error{root: fmt.Errorf("more than %d policy files", maxFiles)}
	}
	return w.paths, w.broken
}

type walk struct {
	watcher *fsnotify.Watcher
	paths   []string
	// visited holds folders by their path without symlinks: links make loops.
	visited map[string]bool
	broken  map[string]error
	tooMany bool
}

func (w *walk) folder(path, real string, depth int) {
	if w.visited[real] || w.tooMany {
		return
	}
	w.visited[real] = true
	if depth > maxDepth {
		w.broken[path] = fmt.Errorf("nested deeper than %d folders", maxDepth)
		return
	}
	if w.watcher != nil {
		// Failing to watch is made up for by the regular scan.
		_ = w.watcher.Add(path)
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) && depth > 0 {
		return // It was removed while walking.
	}
	if err != nil {
		w.broken[path] = err
		return
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			w.entry(entry, filepath.Join(path, entry.Name()), filepath.Join(real, entry.Name()), depth)
		}
	}
}

func (w *walk) entry(entry fs.DirEntry, path, real string, depth int) {
	isFolder := entry.IsDir()
	if entry.Type()&fs.ModeSymlink != 0 {
		info, err := os.Stat(path)
		if err == nil {
			real, err = filepath.EvalSymlinks(path)
		}
		if err != nil {
			w.leadsNowhere(path, err)
			return
		}
		isFolder = info.IsDir()
	}
	switch {
	case isFolder:
		w.folder(path, real, depth+1)
	case !isPolicyFile(entry.Name()):
	case len(w.paths) == maxFiles:
		w.tooMany = true
	default:
		w.paths = append(w.paths, path)
	}
}

// lostLink is about a symlink that leads nowhere and may have led to a folder.
type lostLink struct{ error }

// leadsNowhere takes note of a symlink that cannot be followed, such as one to a
// file system that is away: what it led to is not deleted, and stays in force.
func (w *walk) leadsNowhere(path string, err error) {
	if _, gone := os.Lstat(path); gone != nil {
		return // It was removed while walking.
	}
	switch {
	case !isPolicyFile(filepath.Base(path)):
		w.broken[path] = lostLink{err}
	case len(w.paths) == maxFiles:
		w.tooMany = true
	default:
		w.paths = append(w.paths, path)
	}
}

func isPolicyFile(name string) bool {
	if name == "kustomization.yaml" || name == "kustomization.yml" {
		return false
	}
	return slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}
