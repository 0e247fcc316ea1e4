package folder

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"weir.dev/policy"
)

// Read reads folders and single files once, as a Source without history would.
// The error is about a path that cannot be read at all.
func Read(parser *policy.Parser, paths ...string) (Update, error) {
	source := newSource(Config{}, parser)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil && path == "-" {
			return Update{}, errors.New("standard input is not read; write the policy to a file that ends in .yaml")
		}
		if err != nil {
			return Update{}, err
		}
		files := []string{path}
		if info.IsDir() {
			var broken map[string]error
			files, broken = list(path, nil)
			maps.DeleteFunc(broken, func(_ string, err error) bool { return errors.As(err, new(lostLink)) })
			if len(broken) > 0 {
				return Update{}, errors.Join(slices.Collect(maps.Values(broken))...)
			}
		} else if !isPolicyFile(info.Name()) {
			return Update{}, fmt.Errorf("%s: a policy file ends in .yaml, .yml or .json", path)
		}
		for _, file := range files {
			source.read(file, time.Now())
		}
	}
	return source.build(), nil
}

// behindLostLink reports whether a path, or a folder on it, is a link to what is not
// there: a file system that is away, whose objects a Source keeps.
func behindLostLink(path string) bool {
	for {
		if info, err := os.Lstat(path); err == nil {
			return info.Mode()&os.ModeSymlink != 0
		}
		parent := filepath.Dir(path)
		if parent == path {
			return false
		}
		path = parent
	}
}

// Left reports whether an object is not in its file any more. A Source lets go of
// it only after a moment, so that it may be in force still. A file that cannot be
// read as a whole, and what is of no file, counts as having it.
func Left(parser *policy.Parser, object *policy.Object) bool {
	if !isPolicyFile(object.File) {
		return false
	}
	info, err := os.Stat(object.File)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) && !behindLostLink(object.File)
	}
	content, err := readBounded(object.File, info)
	if err != nil {
		return false
	}
	for _, document := range parser.Parse(object.File, content) {
		if document.Object == nil || document.Ref == object.Ref {
			return false
		}
	}
	return true
}
