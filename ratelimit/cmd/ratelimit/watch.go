package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weir.dev/ratelimit/erconfig"
)

// pollEvery is how often the folder is looked at. Looking finds what
// notifications miss: a ConfigMap's links, a mount over the folder, a network
// file system.
const pollEvery = 250 * time.Millisecond

// folder watches one configuration.
type folder struct {
	dir          string
	ignoreHidden bool
	options      erconfig.Options
	seen         string
}

// load reads the configuration as it is now.
func (f *folder) load() (*erconfig.Config, error) {
	files, err := erconfig.ReadDir(f.dir, f.ignoreHidden)
	if err != nil {
		return nil, fmt.Errorf("RUNTIME_ROOT/RUNTIME_SUBDIRECTORY/RUNTIME_APPDIRECTORY: %w", err)
	}
	return erconfig.Load(files, f.options)
}

// watch calls changed after each change, once the files have stood still for
// one look, until ctx ends.
func (f *folder) watch(ctx context.Context, changed func()) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	pending := f.seen
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := f.signature()
		switch {
		case now == f.seen:
		case now != pending: // it is being written
		default:
			f.seen = now
			changed()
		}
		pending = now
	}
}

// signature changes with every change of the files.
func (f *folder) signature() string {
	var text strings.Builder
	// An error is part of what there is to see: the folder may be gone.
	err := filepath.WalkDir(f.dir, func(path string, item fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		target := ""
		if item.Type()&fs.ModeSymlink != 0 {
			if target, err = filepath.EvalSymlinks(path); err != nil {
				return err
			}
		}
		fmt.Fprintf(&text, "%s|%d|%d|%s\n", path, info.Size(), info.ModTime().UnixNano(), target)
		return nil
	})
	if err != nil {
		fmt.Fprintln(&text, err)
	}
	return text.String()
}
