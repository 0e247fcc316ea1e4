package admin

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"weir.dev/policy"
)

// Store keeps applied objects in one file of a folder that a source follows. One
// file, replaced by rename, is what makes an apply all or nothing. Not safe for
// concurrent use.
type Store struct {
	folder string
	parser *policy.Parser
}

// storeFile is the file's name.
const storeFile = "applied.yaml"

// NewStore makes the folder if it is not there.
func NewStore(folder string, parser *policy.Parser) (*Store, error) {
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(absolute, 0o700); err != nil {
		return nil, fmt.Errorf("folder of applied objects: %w", err)
	}
	return &Store{folder: absolute, parser: parser}, nil
}

// Path is the file.
func (s *Store) Path() string { return filepath.Join(s.folder, storeFile) }

// Load reads what was applied.
func (s *Store) Load() ([]*policy.Object, error) {
	raw, err := os.ReadFile(s.Path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("applied objects: %w", err)
	}
	var objects []*policy.Object
	for _, document := range s.parser.Parse(s.Path(), raw) {
		if document.Object == nil {
			return nil, fmt.Errorf("applied objects: %w; mend or remove the document by hand", document.Problems[0])
		}
		objects = append(objects, document.Object)
	}
	return objects, nil
}

// render is the file's content.
func render(objects []*policy.Object) ([]byte, error) {
	sorted := slices.Clone(objects)
	slices.SortFunc(sorted, func(a, b *policy.Object) int { return bytes.Compare([]byte(nameOf(a.Ref)), []byte(nameOf(b.Ref))) })
	var out bytes.Buffer
	out.WriteString("# Written by weir apply, and replaced by the next one.\n")
	for _, object := range sorted {
		var tree any
		if err := yaml.Unmarshal(object.JSON(), &tree); err != nil {
			return nil, fmt.Errorf("%s: %w", object.Ref, err)
		}
		out.WriteString("---\n")
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		if err := errors.Join(encoder.Encode(tree), encoder.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", object.Ref, err)
		}
	}
	if out.Len() > policy.MaxFileBytes || len(sorted) > policy.MaxDocumentsPerFile {
		return nil, fmt.Errorf("all applied objects together are %d in %d bytes; the most is %d in %d bytes",
			len(sorted), out.Len(), policy.MaxDocumentsPerFile, policy.MaxFileBytes)
	}
	return out.Bytes(), nil
}

// Save replaces what was applied.
func (s *Store) Save(objects []*policy.Object) error {
	content, err := render(objects)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(s.folder, "."+storeFile+"-*")
	if err != nil {
		return fmt.Errorf("applied objects: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(content)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return fmt.Errorf("applied objects: %w", err)
	}
	return os.Rename(temp.Name(), s.Path())
}
