package folder_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/folder"
)

// TestOverARestart starts with kept state, stops, changes the folder, starts
// again and looks at the first thing said.
func TestOverARestart(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after string // content of the file; "" for none
		damage        string // of the kept state
		want          string
	}{
		"a broken document keeps its object":        {backend("a", 1) + backend("b", 1), brokenA + backend("b", 2), "", "a:1 b:2 !WEIR1003"},
		"a nameless one keeps all of its file":      {backend("a", 1) + backend("b", 1), hopeless, "", "a:1 b:1 !WEIR1001"},
		"a broken AuthPolicy keeps the good one":    {authGood, authBroken, "", "p !WEIR1004"},
		"what was deleted meanwhile is gone":        {backend("a", 1) + backend("b", 1), backend("a", 1), "", "a:1"},
		"a deleted file too":                        {backend("a", 1), "", "", ""},
		"cold: a broken AuthPolicy closes":          {"", authBroken, "", "!WEIR1004 closing"},
		"cold: a nameless one closes everything":    {"", "---\nkind: AuthPolicy\nmetadata: [", "", "!WEIR1001 closing"},
		"damaged: the good is served":               {backend("a", 1), backend("a", 2), "{not json", "a:2"},
		"damaged: the broken has nothing to keep":   {backend("a", 1), brokenA, "[{]", "!WEIR1003"},
		"damaged: a broken AuthPolicy closes":       {authGood, authBroken, "null,", "!WEIR1004 closing"},
		"kept objects that are not good any more":   {authGood, authBroken, `[{"file":"x","document":{"kind":"AuthPolicy"}}]`, "!WEIR1004 closing"},
		"kept state of another shape is as damaged": {authGood, authBroken, `{"objects":[]}`, "!WEIR1004 closing"},
	} {
		t.Run(name, func(t *testing.T) {
			config := folder.Config{Folders: []string{t.TempDir()}, KeepFile: filepath.Join(t.TempDir(), "state", "keep.json")}
			path := filepath.Join(config.Folders[0], "p.yaml")
			put := func(content string) {
				if content == "" {
					_ = os.Remove(path)
					return
				}
				write(t, path, content)
			}
			put(tc.before)
			first := follow(t, config)
			first.next()
			first.stop()
			put(tc.after)
			if tc.damage != "" {
				write(t, config.KeepFile, tc.damage)
			}
			second := follow(t, config)
			second.next()
			second.until(tc.want, func(string) {})
			second.stop()
			info, err := os.Stat(config.KeepFile)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds hashes of keys")
		})
	}
}

func TestAFolderThatIsAwayAtAStart(t *testing.T) {
	config := folder.Config{Folders: []string{filepath.Join(t.TempDir(), "p")}, KeepFile: filepath.Join(t.TempDir(), "keep.json")}
	write(t, filepath.Join(config.Folders[0], "a.yaml"), backend("a", 1))
	first := follow(t, config)
	first.next()
	first.stop()
	require.NoError(t, os.RemoveAll(config.Folders[0]))
	second := follow(t, config)
	require.Equal(t, "a:1 !WEIR1008", say(second.next()))
	second.stop()
	third := follow(t, config)
	require.Equal(t, "a:1 !WEIR1008", say(third.next()), "and over a second restart")
}

func TestKeptStateThatCannotBeReadStopsTheStart(t *testing.T) {
	dir := t.TempDir()
	_, err := folder.New(folder.Config{Folders: []string{dir}, KeepFile: dir}, parser(t))
	require.ErrorContains(t, err, "last good policy")
}

func TestStateThatCannotBeKeptDoesNotStopServing(t *testing.T) {
	config := folder.Config{Folders: []string{t.TempDir()}, KeepFile: filepath.Join(t.TempDir(), "keep.json")}
	write(t, filepath.Join(config.Folders[0], "a.yaml"), backend("a", 1))
	f := follow(t, config)
	f.next()
	require.Eventually(t, func() bool { return os.Remove(config.KeepFile) == nil }, patience, time.Millisecond)
	require.NoError(t, os.MkdirAll(filepath.Join(config.KeepFile, "in the way"), 0o755))
	replace(t, f.path("a.yaml"), backend("a", 2))
	f.until("a:2", nil)
	require.Eventually(t, func() bool { return strings.Contains(f.log.String(), "cannot keep the last good policy") }, patience, time.Millisecond)
}

func TestReadOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sub", "a.yaml"), backend("a", 1))
	write(t, filepath.Join(dir, "notes.txt"), "hello")
	update, err := folder.Read(parser(t), dir)
	require.NoError(t, err)
	require.Equal(t, "a:1", say(update))
	update, err = folder.Read(parser(t), filepath.Join(dir, "sub", "a.yaml"))
	require.NoError(t, err)
	require.Equal(t, "a:1", say(update))
	_, err = folder.Read(parser(t), filepath.Join(dir, "notes.txt"))
	require.ErrorContains(t, err, "ends in .yaml")
	_, err = folder.Read(parser(t), filepath.Join(dir, "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "notes")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "z.yaml")))
	update, err = folder.Read(parser(t), dir)
	require.NoError(t, err)
	require.Equal(t, "a:1 !WEIR1008", say(update))
	require.Equal(t, filepath.Join(dir, "z.yaml"), update.Problems[0].File)
}
