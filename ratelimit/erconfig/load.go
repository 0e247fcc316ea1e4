package erconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// File is one file of a configuration.
type File struct {
	// Name is for messages.
	Name    string
	Content []byte
}

// Options of Load; the zero value is envoyproxy/ratelimit's default.
type Options struct {
	// MergeDomains lets several files configure one domain
	// (MERGE_DOMAIN_CONFIG).
	MergeDomains bool
}

// Load reads files into one configuration, in their order. The error is
// Problems and holds every mistake; nothing is returned beside it.
func Load(files []File, options Options) (*Config, error) {
	l := &loader{config: &Config{domains: map[string]*node{}}, options: options, first: map[string]string{}}
	for _, file := range files {
		l.file(file)
	}
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	return l.config, nil
}

// ReadDir reads the files of a folder, sorted by name; folders inside it are
// left out, and hidden files where ignoreHidden says so. Links are followed,
// as a ConfigMap's volume is made of them.
func ReadDir(dir string, ignoreHidden bool) ([]File, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("configuration folder: %w", err)
	}
	var files []File
	var errs []error
	for _, item := range found {
		name := filepath.Join(dir, item.Name())
		// The links that a ConfigMap's volume is switched by are hidden folders.
		if strings.HasPrefix(item.Name(), "..") || (ignoreHidden && strings.HasPrefix(item.Name(), ".")) {
			continue
		}
		info, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // it went away meanwhile
		case err != nil:
			errs = append(errs, err)
			continue
		case info.IsDir():
			continue
		case info.Size() > MaxFileBytes:
			errs = append(errs, Problem{File: name, Message: fmt.Sprintf("is %d bytes long; the most is %d", info.Size(), MaxFileBytes)})
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files = append(files, File{Name: name, Content: content})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(path.Base(a.Name), path.Base(b.Name)) })
	return files, errors.Join(errs...)
}
