package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/config"
)

type sample struct {
	Name    string          `yaml:"name"`
	Timeout config.Duration `yaml:"timeout"`
	Nested  struct {
		Count int `yaml:"count"`
	} `yaml:"nested"`
}

func (s *sample) SetDefaults() {
	s.Name, s.Timeout, s.Nested.Count = "default", config.Duration(time.Second), 3
}

func (s *sample) Validate() error {
	var errs []error
	if s.Name == "" {
		errs = append(errs, errors.New("name: is required"))
	}
	if s.Nested.Count < 0 {
		errs = append(errs, errors.New("nested.count: must not be negative"))
	}
	return errors.Join(errs...)
}

func load(t testing.TB, content string) (*sample, error) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	into := &sample{}
	return into, config.Load(path, into)
}

func TestLoad(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		want    sample
	}{
		"empty":         {"", sample{Name: "default", Timeout: config.Duration(time.Second)}},
		"only comments": {"# nothing\n", sample{Name: "default", Timeout: config.Duration(time.Second)}},
		"some":          {"name: x\n", sample{Name: "x", Timeout: config.Duration(time.Second)}},
		"duration":      {"timeout: 1m30s\n", sample{Name: "default", Timeout: config.Duration(90 * time.Second)}},
		"one document":  {"---\nname: x\n", sample{Name: "x", Timeout: config.Duration(time.Second)}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.want.Nested.Count = 3
			got, err := load(t, tc.content)
			require.NoError(t, err)
			require.Equal(t, tc.want, *got)
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		want    []string
	}{
		"unknown key":        {"name: x\nnawe: y\n", []string{"line 2", "nawe"}},
		"unknown nested key": {"nested:\n  coont: 1\n", []string{"line 2", "coont"}},
		"repeated key":       {"name: x\nname: y\n", []string{"line 2", "name"}},
		"wrong type":         {"nested:\n  count: many\n", []string{"line 2", "many"}},
		"bare number":        {"name: x\ntimeout: 30\n", []string{"line 2", "30", "unit"}},
		"not YAML":           {"name: [\n", []string{"line"}},
		"two documents":      {"name: x\n---\nname: y\n", []string{"more than one document"}},
		"every mistake":      {"name: ''\nnested: {count: -1}\n", []string{"name: is required", "nested.count: must not be negative"}},
		"too large":          {"# " + strings.Repeat("x", config.MaxFileBytes), []string{"larger than"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tc.content)
			require.Error(t, err)
			for _, part := range append(tc.want, "config.yaml") {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func TestLoadWithoutFile(t *testing.T) {
	into := &sample{}
	require.NoError(t, config.Load("", into))
	require.Equal(t, "default", into.Name)
	require.ErrorIs(t, config.Load(filepath.Join(t.TempDir(), "none.yaml"), into), os.ErrNotExist)
}

func TestPrefixNamesEveryField(t *testing.T) {
	require.NoError(t, config.Prefix("a.", nil))
	err := config.Prefix("a.", errors.Join(errors.New("x: bad"), errors.Join(errors.New("y: bad"), os.ErrNotExist)))
	require.EqualError(t, err, "a.x: bad\na.y: bad\na.file does not exist")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{"", "name: x\ntimeout: 5s\n", "a: &a [*a]\n", "timeout: {}\n", "---\n---\n", "name: !!binary x\n", "nested: [1]\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		_, _ = load(t, content) // must neither panic nor hang
	})
}
