package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Source says where an Envoy came from.
type Source string

// Sources of an Envoy.
const (
	SourceEnv   Source = "ENVOY_BIN"
	SourcePath  Source = "PATH"
	SourceCache Source = "cache"
)

// Found is an Envoy that runs and is new enough.
type Found struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Source  Source `json:"source"`
	// Notes are what was passed over on the way, and why.
	Notes []string `json:"notes,omitempty"`
}

// ErrNotFetched says that only the pinned release is left and it is not in the
// cache yet.
var ErrNotFetched = errors.New("Envoy is neither named by ENVOY_BIN nor on PATH, and not fetched yet; `weir up` fetches it") //nolint:staticcheck // A name begins it.

// Progress is told how many of total bytes have come.
type Progress func(done, total int64)

// Finder finds an Envoy. All fields are needed.
type Finder struct {
	// Env is the environment, as os.Environ.
	Env []string
	// Platform is GOOS/GOARCH.
	Platform string
	// CacheDir is Weir's cache, see CacheDir.
	CacheDir string
	Pin      Pin
	Progress Progress
}

// CacheDir is $WEIR_CACHE_DIR, or weir below the user's XDG cache.
func CacheDir(getenv func(string) string) (string, error) {
	switch {
	case getenv("WEIR_CACHE_DIR") != "":
		return filepath.Abs(getenv("WEIR_CACHE_DIR"))
	case filepath.IsAbs(getenv("XDG_CACHE_HOME")):
		return filepath.Join(getenv("XDG_CACHE_HOME"), "weir"), nil
	case getenv("HOME") != "":
		return filepath.Join(getenv("HOME"), ".cache", "weir"), nil
	}
	return "", errors.New("no cache folder: HOME is not set; name one with WEIR_CACHE_DIR")
}

// Find returns an Envoy, fetching the pinned release when it must.
func (f Finder) Find(ctx context.Context) (Found, error) {
	found, err := f.Locate(ctx)
	if !errors.Is(err, ErrNotFetched) {
		return found, err
	}
	if err := f.fetch(ctx); err != nil {
		return found, withNotes(fmt.Errorf("fetching Envoy %s: %w", f.Pin.Version, err), found.Notes)
	}
	version, err := f.versionOf(ctx, f.cached())
	if err != nil {
		return found, fmt.Errorf("the fetched Envoy does not run: %w", err)
	}
	found.Path, found.Version, found.Source = f.cached(), version, SourceCache
	return found, nil
}

func withNotes(err error, notes []string) error {
	if len(notes) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(notes, "; "))
}

// Locate is Find without fetching: ErrNotFetched stands for that. Found's notes
// are set in that case too.
func (f Finder) Locate(ctx context.Context) (Found, error) {
	if named := f.getenv("ENVOY_BIN"); named != "" {
		if absolute, err := filepath.Abs(named); err == nil {
			named = absolute // It is run from another folder.
		}
		version, err := f.acceptable(ctx, named)
		if err != nil {
			return Found{}, fmt.Errorf("ENVOY_BIN: %w; name another, or unset ENVOY_BIN to let weir fetch %s", err, f.Pin.Version)
		}
		return Found{Path: named, Version: version, Source: SourceEnv}, nil
	}
	var notes []string
	if path, ok := f.lookPath("envoy"); ok {
		version, err := f.acceptable(ctx, path)
		if err == nil {
			return Found{Path: path, Version: version, Source: SourcePath}, nil
		}
		notes = append(notes, fmt.Sprintf("the envoy on PATH is passed over: %v", err))
	}
	if version, err := f.versionOf(ctx, f.cached()); err == nil && version == f.Pin.Version {
		return Found{Path: f.cached(), Version: version, Source: SourceCache, Notes: notes}, nil
	}
	return Found{Notes: notes}, ErrNotFetched
}

// cached is where the fetched binary is or would be.
func (f Finder) cached() string {
	return filepath.Join(f.CacheDir, "envoy", f.Pin.Version, "envoy")
}

func (f Finder) acceptable(ctx context.Context, path string) (string, error) {
	version, err := f.versionOf(ctx, path)
	if err != nil {
		return "", err
	}
	have, ok := parseVersion(version)
	want, _ := parseVersion(f.Pin.Minimum)
	if !ok || have.less(want) {
		return "", fmt.Errorf("%s is version %s and at least %s is needed", path, version, f.Pin.Minimum)
	}
	return version, nil
}

// versionTimeout bounds envoy --version, which loads a binary of 100 MB.
const versionTimeout = 20 * time.Second

func (f Finder) versionOf(ctx context.Context, path string) (string, error) {
	if info, err := os.Stat(path); err != nil {
		return "", err
	} else if info.IsDir() {
		return "", fmt.Errorf("%s is a folder, not the envoy executable", path)
	}
	output, err := f.run(ctx, versionTimeout, nil, path, "--version")
	if err != nil {
		return "", fmt.Errorf("%s --version fails: %w", path, err)
	}
	version, ok := versionIn(output)
	if !ok {
		return "", fmt.Errorf("%s --version does not look like Envoy's: %q", path, firstLine(output))
	}
	return version, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line[:min(len(line), 120)]
}

func (f Finder) getenv(key string) string {
	value := ""
	for _, entry := range f.Env {
		if k, v, _ := strings.Cut(entry, "="); k == key {
			value = v // The last one counts, as for exec.Cmd.
		}
	}
	return value
}

// lookPath searches the finder's PATH; relative entries are passed over, as
// exec.LookPath does.
func (f Finder) lookPath(name string) (string, bool) {
	for _, dir := range filepath.SplitList(f.getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue
		}
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, true
		}
	}
	return "", false
}

// maxOutput bounds what is kept of a command's output.
const maxOutput = 64 << 10

// run returns both output streams together.
func (f Finder) run(ctx context.Context, limit time.Duration, env []string, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var output tail
	command := exec.CommandContext(ctx, path, args...)
	command.Env = append(append([]string{}, f.Env...), env...)
	command.Stdout, command.Stderr = &output, &output
	command.WaitDelay = time.Second
	err := command.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return string(output), err
}

// tail keeps the last maxOutput bytes written to it.
type tail []byte

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if extra := len(*t) - maxOutput; extra > 0 {
		*t = append((*t)[:0], (*t)[extra:]...)
	}
	return len(p), nil
}
