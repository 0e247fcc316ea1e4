package state_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/process"
	"weir.dev/cli/state"
)

func TestLocate(t *testing.T) {
	for name, tc := range map[string]struct {
		flag string
		env  map[string]string
		want string
		err  string
	}{
		"flag wins":    {flag: "/a", env: map[string]string{"WEIR_STATE_DIR": "/b"}, want: "/a"},
		"environment":  {env: map[string]string{"WEIR_STATE_DIR": "/b", "XDG_STATE_HOME": "/c"}, want: "/b"},
		"XDG":          {env: map[string]string{"XDG_STATE_HOME": "/c", "HOME": "/h"}, want: "/c/weir"},
		"XDG relative": {env: map[string]string{"XDG_STATE_HOME": "c", "HOME": "/h"}, want: "/h/.local/state/weir"},
		"home":         {env: map[string]string{"HOME": "/h"}, want: "/h/.local/state/weir"},
		"nothing":      {err: "--state-dir"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := state.Locate(tc.flag, func(key string) string { return tc.env[key] })
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, dir.Root())
		})
	}
}

func TestPrepareAndPurge(t *testing.T) {
	dir, err := state.At(filepath.Join(t.TempDir(), "deep", "state"))
	require.NoError(t, err)
	require.NoError(t, dir.Purge(), "nothing there is fine")
	require.NoError(t, dir.Prepare())
	require.NoError(t, dir.Prepare(), "twice is fine")
	info, err := os.Stat(dir.Credentials())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	require.NoError(t, dir.Purge())
	require.NoDirExists(t, dir.Root())
}

func TestForeignFoldersAreLeftAlone(t *testing.T) {
	root := t.TempDir()
	precious := filepath.Join(root, "thesis.tex")
	require.NoError(t, os.WriteFile(precious, nil, 0o600))
	dir, err := state.At(root)
	require.NoError(t, err)
	require.ErrorContains(t, dir.Prepare(), "thesis.tex")
	require.ErrorContains(t, dir.Purge(), "not a Weir state folder")
	require.FileExists(t, precious)
}

// Two that start at once in a new folder: one finds the marker that the other is writing.
func TestAMarkerThatIsBeingWrittenIsNotForeign(t *testing.T) {
	dir, err := state.At(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir.Path(".weir-state.json-1772231004"), nil, 0o600))
	require.NoError(t, dir.Prepare())
	require.True(t, dir.IsState())
}

func TestNewerLayoutIsRefused(t *testing.T) {
	dir, err := state.At(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir.Path("weir-state.json"), []byte(`{"version":99}`), 0o600))
	require.ErrorContains(t, dir.Prepare(), "layout 99")
}

func TestLockIsExclusiveAndDiesWithItsHolder(t *testing.T) {
	dir, err := state.At(t.TempDir())
	require.NoError(t, err)
	held, err := dir.Locked()
	require.NoError(t, err)
	require.False(t, held)
	lock, err := dir.Lock()
	require.NoError(t, err)
	_, err = dir.Lock()
	require.ErrorIs(t, err, state.ErrLocked)
	held, err = dir.Locked()
	require.NoError(t, err)
	require.True(t, held)
	require.NoError(t, lock.Unlock())
	again, err := dir.Lock()
	require.NoError(t, err, "the file that stays behind is no lock")
	require.NoError(t, again.Unlock())
}

func TestRecordRoundTrip(t *testing.T) {
	dir, err := state.At(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, dir.Prepare())
	_, err = dir.ReadRecord()
	require.ErrorIs(t, err, os.ErrNotExist)
	want := state.Record{Supervisor: process.ID{PID: 7, StartTime: 9}, PolicyDir: "/p", Components: []state.Component{{Name: "x"}}}
	require.NoError(t, dir.WriteRecord(want))
	got, err := dir.ReadRecord()
	require.NoError(t, err)
	require.Equal(t, want, got)
	info, err := os.Stat(dir.Path("run", "run.json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	leftovers, err := filepath.Glob(dir.Path("run", ".*"))
	require.NoError(t, err)
	require.Empty(t, leftovers)

	require.NoError(t, os.WriteFile(dir.Path("run", "run.json"), []byte("{"), 0o600))
	_, err = dir.ReadRecord()
	require.ErrorContains(t, err, "damaged")
}

func TestDamagedPortsAreForgotten(t *testing.T) {
	dir, err := state.At(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, dir.WritePorts(state.Ports{"a": 1}))
	require.Equal(t, state.Ports{"a": 1}, dir.ReadPorts())
	require.NoError(t, os.WriteFile(dir.Path("ports.json"), []byte("["), 0o600))
	require.Empty(t, dir.ReadPorts())
}
