package rulesfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/config"
)

// Bounds of a folder.
const (
	MaxFileBytes = 16 << 20
	MaxFiles     = 10_000
)

// Rules are what a folder holds.
type Rules struct {
	Rules []*rulesv1.RateLimitRule
	// Files were read, and Others are objects of other kinds in them.
	Files, Others int
}

// Read reads every file of a folder whose name ends in .yaml, .yml or .json, and
// the folders in it; what begins with a dot is left alone, such as the links of a
// mounted ConfigMap. It reports every mistake with its file. The rules are not yet
// checked against each other: rulesfeed.Build does.
func Read(dir string) (*Rules, error) {
	read := &Rules{}
	var errs []error
	dir, err := filepath.EvalSymlinks(dir) // WalkDir follows no link, not even the first
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch hidden := path != dir && strings.HasPrefix(entry.Name(), "."); {
		case err != nil:
			return err
		case hidden && entry.IsDir():
			return filepath.SkipDir
		case hidden || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			return nil
		}
		if read.Files++; read.Files > MaxFiles {
			return fmt.Errorf("holds more than %d files", MaxFiles)
		}
		content, err := readFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		errs = append(errs, config.Prefix(name+": ", read.add(content)))
		return nil
	})
	if err != nil {
		errs = append(errs, config.Prefix(dir+": ", err))
	}
	if err = errors.Join(errs...); err != nil {
		return nil, err
	}
	return read, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, MaxFileBytes+1))
	if len(content) > MaxFileBytes {
		err = fmt.Errorf("%s: is longer than %d bytes", path, MaxFileBytes)
	}
	return content, err
}

// add reads the documents of a file.
func (r *Rules) add(content []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var errs []error
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return errors.Join(errs...)
		}
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if len(document.Content) == 0 || document.Content[0].Tag == "!!null" {
			continue
		}
		errs = append(errs, config.Prefix(fmt.Sprintf("line %d: ", document.Content[0].Line), r.document(&document)))
	}
}

func (r *Rules) document(document *yaml.Node) error {
	var head object
	if err := document.Decode(&head); err != nil {
		return err
	}
	if head.Kind == "" {
		return errors.New("kind: is required")
	}
	if head.Kind != "RateLimitPolicy" {
		r.Others++
		return nil
	}
	if head.APIVersion != "weir.dev/v1alpha1" {
		return fmt.Errorf("apiVersion: %q is not weir.dev/v1alpha1", head.APIVersion)
	}
	// A node can't be decoded strictly; its text can.
	text, err := yaml.Marshal(document.Content[0])
	if err != nil {
		return err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	var policy policyObject
	if err := decoder.Decode(&policy); err != nil {
		return err
	}
	rules, err := policy.rules()
	r.Rules = append(r.Rules, rules...)
	return err
}

// pollEvery is how often the folder is looked at. Looking finds what
// notifications miss: a ConfigMap's links, a mount over the folder.
const pollEvery = 250 * time.Millisecond

// Folder is a folder that is watched.
type Folder struct {
	dir, seen string
}

// Open takes a folder as it is now; Read it after this, so that no change is
// missed.
func Open(dir string) *Folder { return &Folder{dir: dir, seen: signature(dir)} }

// Watch calls changed after each change of the folder, once its files have stood
// still for one look, until ctx ends.
func (f *Folder) Watch(ctx context.Context, changed func()) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for pending := f.seen; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := signature(f.dir)
		if now != f.seen && now == pending {
			f.seen = now
			changed()
		}
		pending = now
	}
}

// signature changes with every change of the files.
func signature(dir string) string {
	var text strings.Builder
	if followed, err := filepath.EvalSymlinks(dir); err == nil {
		dir = followed
	}
	// An error is part of what there is to see: the folder may be gone.
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err == nil {
			fmt.Fprintf(&text, "%s|%d|%d\n", path, info.Size(), info.ModTime().UnixNano())
		}
		return err
	}); err != nil {
		fmt.Fprintln(&text, err)
	}
	return text.String()
}
