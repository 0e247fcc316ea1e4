package folder

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weir.dev/policy"
)

// kept is one object on disk.
type kept struct {
	File     string          `json:"file"`
	Document json.RawMessage `json:"document"`
}

// keep writes the last good objects, by rename. Failing to keep does not stop
// serving; it is logged.
func (s *Source) keep() {
	if s.config.KeepFile == "" {
		return
	}
	objects := make([]kept, 0, len(s.good))
	for _, object := range s.good {
		objects = append(objects, kept{File: object.File, Document: object.JSON()})
	}
	slices.SortFunc(objects, func(a, b kept) int {
		return strings.Compare(a.File+"\x00"+string(a.Document), b.File+"\x00"+string(b.Document))
	})
	if err := writeKept(s.config.KeepFile, objects); err != nil {
		s.config.Logger.Error("cannot keep the last good policy", "file", s.config.KeepFile, "error", err)
	}
}

func writeKept(path string, objects []kept) error {
	raw, err := json.Marshal(objects)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(raw)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

// restore reads what was kept. A damaged file is named in the log and replaced
// with the first update: it is a cache of the folders, and refusing to start
// would serve nobody.
func (s *Source) restore() error {
	if s.config.KeepFile == "" {
		return nil
	}
	raw, err := os.ReadFile(s.config.KeepFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("last good policy: %w", err)
	}
	var objects []kept
	if err := json.Unmarshal(raw, &objects); err != nil {
		s.config.Logger.Error("the kept last good policy is damaged and is not used", "file", s.config.KeepFile, "error", err)
		return nil
	}
	good := map[policy.ObjectRef]*policy.Object{}
	for _, object := range objects {
		for _, document := range s.parser.Parse(object.File, object.Document) {
			if document.Object != nil {
				good[document.Object.Ref] = document.Object
			}
		}
	}
	s.remember(good)
	return nil
}
