package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	segmentPrefix = "audit-"
	segmentSuffix = ".jsonl"
	// checkpointFile holds the newest checkpoint, to be kept elsewhere too.
	checkpointFile = "checkpoint"
	lockFile       = "lock"
)

// file is what a segment is written to.
type file interface {
	io.Writer
	io.Closer
	Sync() error
	Truncate(size int64) error
}

// files is the disk, as far as its failures are tested.
type files interface {
	// Append opens a file for writing at its end, and makes it if it isn't there.
	Append(path string) (file, error)
	// Free is how many bytes the file system has left for us.
	Free(dir string) (int64, error)
}

type disk struct{}

func (disk) Append(path string) (file, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

func segmentName(first int64) string {
	return fmt.Sprintf("%s%020d%s", segmentPrefix, first, segmentSuffix)
}

// segment is a file of a log.
type segment struct {
	path  string
	first int64
}

// segments lists a folder's, the oldest first.
func segments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []segment
	for _, entry := range entries {
		name := entry.Name()
		number, ok := strings.CutPrefix(name, segmentPrefix)
		if !ok {
			continue
		}
		number, ok = strings.CutSuffix(number, segmentSuffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseInt(number, 10, 64)
		if err != nil || segmentName(first) != name {
			continue
		}
		found = append(found, segment{filepath.Join(dir, name), first})
	}
	slices.SortFunc(found, func(a, b segment) int { return strings.Compare(a.path, b.path) })
	return found, nil
}

// prune removes the oldest segments that are over the bounds.
func (l *Log) prune() error {
	all, err := segments(l.config.Dir)
	if err != nil {
		return err
	}
	var total int64
	infos := make([]fs.FileInfo, len(all))
	for i, s := range all {
		if infos[i], err = os.Stat(s.path); err != nil {
			return err
		}
		total += infos[i].Size()
	}
	var errs []error
	for i := 0; i < len(all)-1; i++ {
		old := l.options.Clock().Sub(infos[i].ModTime()) > l.config.KeepAge
		if !old && total <= l.config.KeepBytes {
			break
		}
		if err := os.Remove(all[i].path); err != nil {
			errs = append(errs, err)
			break
		}
		total -= infos[i].Size()
		l.options.Logger.Info("audit segment removed by retention", "segment", filepath.Base(all[i].path), "too_old", old)
	}
	return errors.Join(errs...)
}
