package cluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Version is the Kubernetes release that is built; components/apiserver/go.mod
// pins it.
const Version = "v1.36.3"

// buildTimeout bounds the build of one component: kube-apiserver takes about
// six minutes on two cores the first time.
const buildTimeout = 40 * time.Minute

// sayEvery is how often a build says that it still runs.
const sayEvery = 30 * time.Second

// Binaries are the paths of what Build made.
type Binaries struct{ Etcd, APIServer string }

// Build compiles the components of the server, unless the cache holds them
// already, and returns their paths. components is the folder of that name beside
// this package. Calls from several processes at once build one time. What it does
// is said on progress.
func Build(ctx context.Context, components string, progress io.Writer) (Binaries, error) {
	built, err := build(ctx, components, progress, "etcd", "apiserver")
	if err != nil {
		return Binaries{}, err
	}
	return Binaries{Etcd: built[0], APIServer: built[1]}, nil
}

// BuildKubectl does so for kubectl, of the same release, and returns its path. It
// takes about two minutes on two cores the first time.
func BuildKubectl(ctx context.Context, components string, progress io.Writer) (string, error) {
	built, err := build(ctx, components, progress, "kubectl")
	if err != nil {
		return "", err
	}
	return built[0], nil
}

func build(ctx context.Context, components string, progress io.Writer, names ...string) ([]string, error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("the cache cannot be used (choose another with WEIR_CACHE_DIR): %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, ".lock"), progress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	paths := make([]string, len(names))
	for i, name := range names {
		binary := name
		if name == "apiserver" {
			binary = "kube-apiserver"
		}
		if paths[i], err = buildOne(ctx, filepath.Join(components, name), dir, binary, progress); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

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
			fmt.Fprintln(progress, "another process is building the Kubernetes API; waiting for it")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// buildOne compiles the module at source to dir/name-KEY, where KEY is the
// content of the module and the version of Go.
func buildOne(ctx context.Context, source, dir, name string, progress io.Writer) (string, error) {
	key, err := keyOf(source)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, name+"-"+key)
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	started := time.Now()
	fmt.Fprintf(progress, "building %s, once (some minutes) ...\n", name)
	stop := keepSaying(progress, name, started)
	defer stop()
	var output bytes.Buffer
	work := binary + ".new"
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", work, ".")
	command.Dir = source
	command.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("building %s in %s: %w\n%s", name, source, err, output.String())
	}
	fmt.Fprintf(progress, "built %s in %s\n", name, time.Since(started).Round(time.Second))
	return binary, os.Rename(work, binary)
}

func keyOf(source string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, cmp.Or(os.Getenv("GOTOOLCHAIN"), "local"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		content, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("the sources of the test cluster: %w", err)
		}
		_, _ = hash.Write(content)
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
