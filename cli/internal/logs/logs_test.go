package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRotationIsBoundedAndKeepsLinesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	r, err := OpenRotating(path, 1000)
	require.NoError(t, err)
	for i := range 1000 {
		_, err := fmt.Fprintf(r, "line %d\n", i)
		require.NoError(t, err)
	}
	_, err = r.Write([]byte(strings.Repeat("y", 5000))) // No end of line in sight.
	require.NoError(t, err)
	require.NoError(t, r.Close())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 2)

	r, err = OpenRotating(path, 1000)
	require.NoError(t, err)
	for i := range 150 {
		_, err := fmt.Fprintf(r, "later %d\n", i)
		require.NoError(t, err)
	}
	require.NoError(t, r.Close())
	lines, _, err := Tail(path, 3)
	require.NoError(t, err)
	require.Equal(t, []string{"later 147", "later 148", "later 149"}, lines)
	lines, _, err = Tail(path, 100)
	require.NoError(t, err)
	require.Len(t, lines, 100, "reaches into the file before")
	require.Equal(t, "later 50", lines[0])
}

func TestTailOfNothing(t *testing.T) {
	lines, offset, err := Tail(filepath.Join(t.TempDir(), "x.log"), 5)
	require.NoError(t, err)
	require.Empty(t, lines)
	require.Zero(t, offset)
}

func TestFollowAcrossRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	r, err := OpenRotating(path, 200)
	require.NoError(t, err)
	_, _ = r.Write([]byte("before\n"))
	_, offset, err := Tail(path, 10)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	got, done := make(chan string, 100), make(chan error, 1)
	go func() { done <- Follow(ctx, path, offset, func(line string) { got <- line }) }()
	for i := range 60 { // One at a time, so that no file is passed over unseen.
		_, _ = fmt.Fprintf(r, "line %d\n", i)
		select {
		case line := <-got:
			require.Equal(t, fmt.Sprintf("line %d", i), line)
		case <-time.After(time.Minute):
			t.Fatal("line did not come")
		}
	}
	cancel()
	require.NoError(t, <-done)
}

func TestLines(t *testing.T) {
	var got []string
	l := &Lines{Emit: func(line []byte) { got = append(got, string(line)) }}
	for _, part := range []string{"a", "b\nc\n", "", "\n", strings.Repeat("x", MaxLineBytes+5), "y\nend"} {
		n, err := l.Write([]byte(part))
		require.NoError(t, err)
		require.Equal(t, len(part), n)
	}
	require.Equal(t, []string{"ab", "c", "", strings.Repeat("x", MaxLineBytes)}, got)
}

func TestRender(t *testing.T) {
	for name, tc := range map[string]struct{ line, want string }{
		"slog":       {`{"time":"2026-11-21T10:00:00Z","level":"INFO","msg":"serving","component":"datad","address":"a b","n":5}`, `extauthzd    INFO  serving address="a b" n=5`},
		"plain":      {`panic: oh`, `extauthzd    panic: oh`},
		"not quite":  {`{"level":`, `extauthzd    {"level":`},
		"access log": {`{"method":"GET","path":"/v1/x","nothing":null}`, `extauthzd    method=GET path=/v1/x`},
		"terminal":   {"\x1b[2Jgone\u009b1m", `extauthzd    \x1b[2Jgone\x9b1m`},
		"multi-line": {`{"msg":"a\nb","level":"warn"}`, `extauthzd    WARN  a ⏎ b`},
	} {
		t.Run(name, func(t *testing.T) {
			rendered := Parse("extauthzd", tc.line).Render(nil)
			require.Equal(t, tc.want, rendered[13:])
		})
	}
	require.True(t, Parse("x", `{"level":"warning"}`).Severe())
	require.False(t, Parse("x", `{"level":"info"}`).Severe())
}

func FuzzRender(f *testing.F) {
	f.Add(`{"time":"2026-11-21T10:00:00Z","level":"INFO","msg":"m","a":{"b":[1]}}`)
	f.Add("\x1b]0;title\x07")
	f.Add(`{"msg":"\u0000"}`)
	f.Fuzz(func(t *testing.T, line string) {
		rendered := Parse("c", line).Render(nil)
		require.NotContains(t, rendered, "\x1b")
		require.NotContains(t, rendered, "\n")
	})
}
