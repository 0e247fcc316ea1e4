package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// buildTimeout bounds the build of one component: Kubernetes takes about nine
// minutes on two cores the first time.
const buildTimeout = 40 * time.Minute

// sayEvery is how often a build says that it still runs.
const sayEvery = 30 * time.Second

// cacheDir is outside of every checkout, as the other tools' is.
func cacheDir() (string, error) {
	base := os.Getenv("WEIR_CACHE_DIR")
	if base == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache folder (name one with WEIR_CACHE_DIR): %w", err)
		}
		base = filepath.Join(user, "weir")
	}
	return filepath.Join(base, "cluster", Version), nil
}

// lock takes a file lock, which the kernel releases with the process.
func lock(ctx context.Context, path string, progress io.Writer) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(err, file.Close())
		}
		if !said {
			fmt.Fprintln(progress, "another process is building a part of the test cluster; waiting for it")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// buildOne compiles a component to dir/name-KEY, where KEY stands for the content
// of its module, how it is built and the version of Go.
func buildOne(ctx context.Context, sources, dir string, c component, progress io.Writer) (string, error) {
	source, name := filepath.Join(sources, c.module), c.names[0]
	flags := "-s -w"
	for _, variable := range slices.Sorted(maps.Keys(c.variables)) {
		flags += " -X " + variable + "=" + c.variables[variable]
	}
	key, err := keyOf(source, c.pkg, c.tags, flags)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, name+"-"+key)
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	// Of this component alone: who needs what is there already waits for nobody.
	unlock, err := lock(ctx, filepath.Join(dir, ".lock-"+name), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	started := time.Now()
	fmt.Fprintf(progress, "building %s, once (about %s on two cores) ...\n", name, c.takes)
	stop := keepSaying(progress, name, started)
	defer stop()
	var output bytes.Buffer
	work := binary + ".new"
	how := []string{"build"}
	if c.suite {
		how = []string{"test", "-c"}
	}
	command := exec.CommandContext(ctx, "go", append(how, "-trimpath", "-tags", c.tags, "-ldflags", flags, "-o", work, c.pkg)...)
	command.Dir = source
	command.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("building %s in %s: %w\n%s", name, source, err, output.String())
	}
	fmt.Fprintf(progress, "built %s in %s\n", name, time.Since(started).Round(time.Second))
	return binary, os.Rename(work, binary)
}

// keyOf hashes the module: its pins, and whatever Go there is in it.
func keyOf(source string, how ...string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, cmp.Or(os.Getenv("GOTOOLCHAIN"), "local"), runtime.Version(), runtime.GOOS, runtime.GOARCH, how)
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if name := entry.Name(); name != "go.mod" && name != "go.sum" && filepath.Ext(name) != ".go" {
			return nil
		}
		content, err := os.ReadFile(path) //nolint:gosec // the checkout's own files
		if err != nil {
			return err
		}
		fmt.Fprintln(hash, strings.TrimPrefix(path, source), len(content))
		_, _ = hash.Write(content)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("the sources of the test cluster: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// keepSaying shows that a long build is alive, for logs that end when silent.
func keepSaying(progress io.Writer, name string, started time.Time) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(sayEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				fmt.Fprintf(progress, "still building %s (%s)\n", name, time.Since(started).Round(time.Second))
			}
		}
	}()
	return func() { close(done); <-ended }
}

// Module is the folder of a module that a component pins, with everything that is
// in its archive; it is downloaded where it is not there yet.
func Module(ctx context.Context, sources, component, module string) (string, error) {
	command := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	command.Dir = filepath.Join(sources, component)
	command.Env = append(os.Environ(), "GOWORK=off")
	output, err := command.Output()
	var found struct{ Dir, Error string }
	if decoding := json.Unmarshal(output, &found); decoding != nil || found.Dir == "" {
		return "", fmt.Errorf("the module %s of component %s: %w %s", module, component, errors.Join(err, decoding), found.Error)
	}
	return found.Dir, nil
}
