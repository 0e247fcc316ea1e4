// Package atomicfile replaces files so that a reader, also after a crash, sees
// the old content or the new, and nothing in between.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces path by rename. The content is on disk before the name is: a
// power cut leaves no empty file. The folder must exist. The new file has the
// mode given, whatever the umask; an unfinished one is removed. Safe for
// concurrent use: the last one to finish wins.
func Write(path string, content []byte, mode os.FileMode) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // Gone already where all went well.
	err = temp.Chmod(mode)
	if err == nil {
		_, err = temp.Write(content)
	}
	if err == nil {
		err = temp.Sync()
	}
	if err := errors.Join(err, temp.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.Rename(temp.Name(), path)
}
