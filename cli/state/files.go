package state

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"weir.dev/kit/atomicfile"
)

// maxFileBytes bounds every file that is read back.
const maxFileBytes = 1 << 20

// WriteFile replaces path by rename, so that a reader sees the old content or
// the new, with mode 0600.
func WriteFile(path string, content []byte) error {
	return atomicfile.Write(path, content, 0o600)
}

// ReadFile reads a file of at most 1 MiB.
func ReadFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(content) > maxFileBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxFileBytes)
	}
	return content, nil
}

// WriteJSON is WriteFile with value as indented JSON.
func WriteJSON(path string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return WriteFile(path, append(content, '\n'))
}

// ReadJSON reads what WriteJSON wrote; a missing file is os.ErrNotExist.
func ReadJSON(path string, into any) error {
	content, err := ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s is damaged (remove it and start again): %w", path, err)
	}
	return nil
}
