package folder_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

func parser(t testing.TB) *policy.Parser {
	t.Helper()
	p, err := policy.NewParser()
	require.NoError(t, err)
	return p
}

// backend is a good document; its port is what edits change.
func backend(name string, port int) string {
	return fmt.Sprintf(`---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: %s}
spec:
  endpoints: [{address: 127.0.0.1, port: %d}]
`, name, port)
}

const (
	// broken has a name and a mistake; hopeless has no readable name.
	brokenA  = "---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: a}\nspec: {endpoints: 5}\n"
	hopeless = "---\napiVersion: weir.dev/v1alpha1\nkind: [\n"
	authGood = `---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: p}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]
  authentication: [{name: key, apiKey: {}}]
`
	authBroken = `---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: p}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]
  authentication: [{name: key, apiKey: {}}]
  unheardOf: 1
`
)

// follower runs a source and looks at what it says.
type follower struct {
	t       *testing.T
	dir     string
	updates chan folder.Update
	last    folder.Update
	log     *lockedBuffer
	stop    func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// follow runs a source that sees what it is notified of, and nothing else.
func follow(t *testing.T, config folder.Config) *follower {
	t.Helper()
	return rescanning(t, config, time.Hour)
}

// rescanning runs a source that looks by itself, too, every so often.
func rescanning(t *testing.T, config folder.Config, every time.Duration) *follower {
	t.Helper()
	f := &follower{t: t, dir: config.Folders[0], updates: make(chan folder.Update, 1000), log: &lockedBuffer{}}
	config.Logger = slog.New(slog.NewTextHandler(f.log, nil))
	source, err := folder.New(config, parser(t))
	require.NoError(t, err)
	source.RescanEvery(every)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, func(update folder.Update) { f.updates <- update }) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	t.Cleanup(f.stop)
	return f
}

// started follows a folder with the given files.
func started(t *testing.T, files ...string) *follower {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		write(t, filepath.Join(dir, files[i]), files[i+1])
	}
	f := follow(t, folder.Config{Folders: []string{dir}})
	f.next()
	return f
}

func write(t testing.TB, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

// replace writes by rename.
func replace(t testing.TB, path, content string) {
	t.Helper()
	write(t, path+".tmp", content)
	require.NoError(t, os.Rename(path+".tmp", path))
}

func (f *follower) path(name string) string { return filepath.Join(f.dir, name) }

func (f *follower) next() folder.Update {
	f.t.Helper()
	select {
	case f.last = <-f.updates:
	case <-time.After(patience):
		require.FailNow(f.t, "no update came", f.log.String())
	}
	return f.last
}

// until waits for an update that says exactly want, and returns how long it
// took. Each update on the way must pass the check.
func (f *follower) until(want string, check func(string)) time.Duration {
	f.t.Helper()
	began := time.Now()
	for say(f.last) != want {
		select {
		case f.last = <-f.updates:
			if check != nil {
				check(say(f.last))
			}
		case <-time.After(patience):
			require.FailNow(f.t, "the update did not come", "want %q, last was %q\n%s", want, say(f.last), f.log.String())
		}
	}
	return time.Since(began)
}

// always is a check that every update holds a text.
func (f *follower) always(text string) func(string) {
	return func(said string) { f.t.Helper(); require.Contains(f.t, said, text) }
}

// quiet requires that nothing new is said for a while longer than any of the
// source's own times.
func (f *follower) quiet() {
	f.t.Helper()
	before := say(f.last)
	for limit := time.After(700 * time.Millisecond); ; {
		select {
		case update := <-f.updates:
			require.Equal(f.t, before, say(update))
		case <-limit:
			return
		}
	}
}

// say is an update in short: objects with their port, then problems by code,
// then closings.
func say(update folder.Update) string {
	var parts []string
	for _, object := range update.Input.Objects {
		text := object.Ref.Name
		if _, port, ok := strings.Cut(string(object.JSON()), `"port":`); ok {
			text += ":" + strings.TrimRight(port, "}]")
		}
		parts = append(parts, text)
	}
	slices.Sort(parts)
	problems := map[policy.Code]bool{}
	for _, problem := range update.Problems {
		if !problems[problem.Code] {
			parts = append(parts, "!"+string(problem.Code))
		}
		problems[problem.Code] = true
	}
	for range update.Input.Closings {
		parts = append(parts, "closing")
	}
	return strings.Join(parts, " ")
}
