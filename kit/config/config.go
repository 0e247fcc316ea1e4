// Package config loads a daemon's YAML configuration: defaults first, then the
// file, strictly (an unknown key is an error that names its line), then
// validation that reports every mistake at once.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxFileBytes bounds a configuration file.
const MaxFileBytes = 1 << 20

// Config is implemented by each package's configuration type, by pointer.
type Config interface {
	// SetDefaults fills every field with its default; called once, before the
	// file is read.
	SetDefaults()
	// Validate returns all mistakes joined, each naming its field, or nil.
	Validate() error
}

// Load fills into from the file at path. An empty path means defaults only.
func Load(path string, into Config) error {
	into.SetDefaults()
	if path != "" {
		if err := decodeFile(path, into); err != nil {
			return err
		}
	}
	if err := into.Validate(); err != nil {
		if path == "" {
			path = "built-in defaults"
		}
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

func decodeFile(path string, into Config) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, MaxFileBytes+1))
	if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	if len(raw) > MaxFileBytes {
		return fmt.Errorf("configuration %s: larger than %d bytes", path, MaxFileBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("configuration %s: holds more than one document; keep one", path)
	}
	return nil
}

// Duration is a time.Duration written as Go does, e.g. "1m30s".
type Duration time.Duration

// UnmarshalYAML parses the text form; a bare number is refused because its
// unit would be a guess.
func (d *Duration) UnmarshalYAML(node *yaml.Node) error {
	parsed, err := time.ParseDuration(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is not a duration; write it with a unit, such as 500ms, 30s or 5m", node.Line, node.Value)
	}
	*d = Duration(parsed)
	return nil
}

// MarshalYAML writes the text form.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// Std is d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Prefix puts prefix before each mistake that err joins, so that every line
// names its whole field. Prefix of nil is nil.
func Prefix(prefix string, err error) error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // only the outermost join is taken apart
		parts := joined.Unwrap()
		prefixed := make([]error, len(parts))
		for i, part := range parts {
			prefixed[i] = Prefix(prefix, part)
		}
		return errors.Join(prefixed...)
	}
	return fmt.Errorf("%s%w", prefix, err)
}
