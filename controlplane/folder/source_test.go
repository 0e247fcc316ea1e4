package folder_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

func TestEdits(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*testing.T, string)
		want string
	}{
		"rename-on-save": {func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "a.yaml"), backend("a", 2)) }, "a:2 b:1"},
		"in place":       {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "a.yaml"), backend("a", 2)) }, "a:2 b:1"},
		"removed and written": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "a.yaml")))
			write(t, filepath.Join(dir, "a.yaml"), backend("a", 2))
		}, "a:2 b:1"},
		"renamed": {func(t *testing.T, dir string) {
			require.NoError(t, os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "z.yml")))
		}, "a:1 b:1"},
		"a new file": {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "c.yaml"), backend("c", 3)) }, "a:1 b:1 c:3"},
		"a new folder in a new folder": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "x", "y", "c.yaml"), backend("c", 3))
		}, "a:1 b:1 c:3"},
		"one document becomes two": {func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, "a.yaml"), backend("a", 1)+backend("c", 3))
		}, "a:1 b:1 c:3"},
	} {
		t.Run(name, func(t *testing.T) {
			f := started(t, "a.yaml", backend("a", 1), "b.yaml", backend("b", 1))
			require.Equal(t, "a:1 b:1", say(f.last))
			tc.edit(t, f.dir)
			f.until(tc.want, func(said string) {
				require.Contains(t, said, "a:")
				require.Contains(t, said, "b:1")
			})
			f.quiet()
		})
	}
}

func TestADeletedFileTakesItsObjectsAlong(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1), "b.yaml", backend("b", 1))
	require.NoError(t, os.Remove(f.path("a.yaml")))
	f.until("b:1", f.always("b:1"))
	replace(t, f.path("b.yaml"), "")
	f.until("", nil)
}

// An object under another name takes the place of the one before at once: two policies
// for one target would be a conflict. One that differs in more may be another object,
// and what went is kept for a while, as it is where its document is moved.
func TestRenamed(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1)+backend("b", 2))
	replace(t, f.path("a.yaml"), backend("c", 1)+backend("b", 2))
	f.until("b:2 c:1", func(said string) {
		require.False(t, strings.Contains(said, "a:") && strings.Contains(said, "c:"), said)
	})
	var both bool
	replace(t, f.path("a.yaml"), backend("d", 7)+backend("b", 2))
	f.until("b:2 d:7", func(said string) { both = both || strings.Contains(said, "c:1") && strings.Contains(said, "d:7") })
	require.True(t, both, "one that is another object is not let go of at once")
	// A copy that was there before is no new name.
	replace(t, f.path("a.yaml"), backend("b", 2)+backend("e", 2))
	f.until("b:2 e:2", nil)
	both = false
	replace(t, f.path("a.yaml"), backend("e", 2))
	f.until("e:2", func(said string) { both = both || said == "b:2 e:2" })
	require.True(t, both)
}

// Writing in place goes over an empty file, and a slow writer over half of one.
// There is no moment without the objects, and none with half of one.
func TestWritingInPlaceSlowly(t *testing.T) {
	f := started(t, "all.yaml", backend("a", 1)+backend("b", 1)+backend("c", 1))
	content := backend("a", 2) + backend("b", 2) + backend("c", 2)
	file, err := os.OpenFile(f.path("all.yaml"), os.O_WRONLY|os.O_TRUNC, 0o644)
	require.NoError(t, err)
	defer file.Close()
	for half := range slices.Chunk([]byte(content), 40) {
		_, err := file.Write(half)
		require.NoError(t, err)
		time.Sleep(10 * time.Millisecond) // the pace of the writer
	}
	f.until("a:2 b:2 c:2", func(said string) {
		for _, name := range []string{"a:", "b:", "c:"} {
			require.Contains(t, said, name)
		}
	})
	f.quiet()
}

// A writer that stops for long after a half is taken at its word only where it
// adds; what it has not written yet stays for a grace.
func TestAHalfWrittenFile(t *testing.T) {
	f := started(t, "all.yaml", backend("a", 1)+backend("b", 1))
	write(t, f.path("all.yaml"), backend("a", 2))
	f.until("a:2 b:1", f.always("b:1"))
	write(t, f.path("all.yaml"), backend("a", 2)+backend("b", 2))
	f.until("a:2 b:2", f.always("b:"))
	write(t, f.path("all.yaml"), backend("a", 2))
	f.until("a:2", nil)
}

func TestABrokenDocumentKeepsItsObjectOnly(t *testing.T) {
	f := started(t, "all.yaml", backend("a", 1)+backend("b", 1))
	replace(t, f.path("all.yaml"), brokenA+backend("b", 2))
	f.until("a:1 b:2 !WEIR1003", nil)
	require.Equal(t, f.path("all.yaml"), f.last.Problems[0].File)
	require.Positive(t, f.last.Problems[0].Line)
	// One that cannot even be named keeps everything that its file held.
	replace(t, f.path("all.yaml"), hopeless+backend("b", 3))
	f.until("a:1 b:3 !WEIR1001", nil)
	f.quiet()
	replace(t, f.path("all.yaml"), backend("a", 4)+backend("b", 4))
	f.until("a:4 b:4", nil)
	// Where it had never been good there is nothing to keep.
	replace(t, f.path("new.yaml"), strings.ReplaceAll(brokenA, "name: a", "name: n"))
	f.until("a:4 b:4 !WEIR1003", nil)
}

func TestAnObjectMovesToAnotherFileWhileItsOldOneBreaks(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1))
	write(t, f.path("z.yaml"), backend("a", 2))
	replace(t, f.path("a.yaml"), brokenA)
	f.until("a:2 !WEIR1003", nil)
}

func TestUnreadableFiles(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1), "b.yaml", backend("b", 1))
	huge := make([]byte, policy.MaxFileBytes+1)
	replace(t, f.path("a.yaml"), string(huge))
	f.until("a:1 b:1 !WEIR1006", f.always("a:1"))
	require.Contains(t, f.last.Problems[0].Message, "the most is")
	require.NoError(t, os.Remove(f.path("a.yaml")))
	require.NoError(t, syscall.Mkfifo(f.path("a.yaml"), 0o644)) // would block a careless reader
	require.Eventually(t, func() bool {
		select {
		case f.last = <-f.updates:
		default:
		}
		return len(f.last.Problems) > 0 && strings.Contains(f.last.Problems[0].Message, "not a regular file")
	}, patience, time.Millisecond)
	require.Equal(t, "a:1 b:1 !WEIR1008", say(f.last))
	require.NoError(t, os.Remove(f.path("a.yaml")))
	write(t, f.path("a.yaml"), backend("a", 3))
	f.until("a:3 b:1", f.always("b:1"))
}

// What a kubelet does: files link to ..data/file, and ..data is swapped.
func TestConfigMapSwap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version string, port int) {
		write(t, filepath.Join(dir, version, "a.yaml"), backend("a", port))
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	publish("..v1", 1)
	require.NoError(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	f := follow(t, folder.Config{Folders: []string{dir}})
	require.Equal(t, "a:1", say(f.next()))
	for port := 2; port < 6; port++ {
		publish(fmt.Sprint("..v", port), port)
		require.NoError(t, os.RemoveAll(filepath.Join(dir, fmt.Sprint("..v", port-1))))
		f.until(fmt.Sprint("a:", port), f.always("a:"))
	}
}

// Two writes of one size within the resolution of the modification time.
func TestAnEditThatLooksTheSame(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1))
	for port := 2; port < 10; port++ {
		stamp := time.Now().Add(50 * time.Millisecond)
		write(t, f.path("a.yaml"), backend("a", port))
		require.NoError(t, os.Chtimes(f.path("a.yaml"), stamp, stamp))
		f.until(fmt.Sprint("a:", port), nil)
		write(t, f.path("a.yaml"), backend("a", 0+port%9+1))
		require.NoError(t, os.Chtimes(f.path("a.yaml"), stamp, stamp))
		f.until(fmt.Sprint("a:", port%9+1), nil)
	}
}

func TestAFolderThatGoesAndComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	write(t, filepath.Join(dir, "a.yaml"), backend("a", 1))
	f := rescanning(t, folder.Config{Folders: []string{dir}}, 50*time.Millisecond)
	require.Equal(t, "a:1", say(f.next()))
	require.NoError(t, os.Rename(dir, dir+".away"))
	f.until("a:1 !WEIR1008", f.always("a:1"))
	require.Equal(t, dir, f.last.Problems[0].File)
	f.quiet()
	write(t, filepath.Join(dir, "a.yaml"), backend("a", 2))
	f.until("a:2", f.always("a:"))
	replace(t, filepath.Join(dir, "a.yaml"), backend("a", 3))
	f.until("a:3", nil)
}

func TestTheWholeFolderIsSwapped(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	write(t, filepath.Join(dir, "a.yaml"), backend("a", 1))
	f := rescanning(t, folder.Config{Folders: []string{dir}}, 50*time.Millisecond)
	f.next()
	for port := 2; port < 5; port++ {
		write(t, filepath.Join(dir+".new", "a.yaml"), backend("a", port))
		require.NoError(t, os.Rename(dir, fmt.Sprint(dir, ".old", port)))
		require.NoError(t, os.Rename(dir+".new", dir))
		f.until(fmt.Sprint("a:", port), f.always("a:"))
	}
	replace(t, filepath.Join(dir, "a.yaml"), backend("a", 9))
	f.until("a:9", nil)
}

func TestAnEmptyStartSaysNothingUntilAFolderIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not-mounted-yet")
	f := rescanning(t, folder.Config{Folders: []string{dir}}, 50*time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(f.log.String(), "no policy has been read yet") }, patience, time.Millisecond)
	require.Empty(t, f.updates)
	write(t, filepath.Join(dir, "a.yaml"), backend("a", 1))
	f.until("a:1", nil)
	// An empty folder that is there says that nothing is to be served.
	f = started(t)
	require.Empty(t, say(f.last))
}

func TestTwoFolders(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	write(t, filepath.Join(one, "a.yaml"), backend("a", 1))
	write(t, filepath.Join(two, "b.yaml"), backend("b", 1))
	f := follow(t, folder.Config{Folders: []string{one, two}})
	require.Equal(t, "a:1 b:1", say(f.next()))
	require.NoError(t, os.RemoveAll(one))
	f.until("a:1 b:1 !WEIR1008", f.always("a:1"))
	replace(t, filepath.Join(two, "b.yaml"), backend("b", 2))
	f.until("a:1 b:2 !WEIR1008", f.always("a:1"))
}

func TestWhatIsNotPolicyIsLeftAlone(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1))
	for _, name := range []string{
		".a.yaml.swp", "a.yaml~", "#a.yaml#", ".#a.yaml", "4913", "a.yaml.tmp", "a.yaml.bak", "a.yaml___jb_tmp___", ".hidden/x.yaml",
		"README.md", "kustomization.yaml", "sub/kustomization.yml",
	} {
		write(t, f.path(name), backend("x", 1)+hopeless)
	}
	require.NoError(t, os.Symlink("nowhere", f.path("dangling")))
	replace(t, f.path("b.yaml"), backend("b", 2))
	f.until("a:1 b:2", func(said string) { require.NotContains(t, said, "x:") })
	f.quiet()
}

// What a link led to may be on a file system that is away for a while. That takes
// no policy with it; removing the link does.
func TestLinksThatLeadNowhereForAWhile(t *testing.T) {
	away := t.TempDir()
	write(t, filepath.Join(away, "there", "b.yaml"), backend("b", 1))
	write(t, filepath.Join(away, "there", "sub", "c.yaml"), backend("c", 1))
	f := started(t, "a.yaml", backend("a", 1))
	require.NoError(t, os.Symlink(filepath.Join(away, "there", "b.yaml"), f.path("b.yaml")))
	require.NoError(t, os.Symlink(filepath.Join(away, "there", "sub"), f.path("sub")))
	f.until("a:1 b:1 c:1", f.always("a:1"))

	require.NoError(t, os.Rename(filepath.Join(away, "there"), filepath.Join(away, "gone")))
	replace(t, f.path("a.yaml"), backend("a", 2))
	kept := func(said string) { require.Contains(t, said, "b:1 c:1") }
	f.until("a:2 b:1 c:1 !WEIR1008", kept)
	require.Len(t, f.last.Problems, 2)
	require.ElementsMatch(t, []string{f.path("b.yaml"), f.path("sub")}, []string{f.last.Problems[0].File, f.last.Problems[1].File})

	require.NoError(t, os.Rename(filepath.Join(away, "gone"), filepath.Join(away, "there")))
	replace(t, f.path("a.yaml"), backend("a", 3))
	f.until("a:3 b:1 c:1", kept)
	require.NoError(t, os.Remove(f.path("b.yaml")))
	require.NoError(t, os.Remove(f.path("sub")))
	f.until("a:3", f.always("a:3"))
}

func TestLinksThatLoop(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sub", "a.yaml"), backend("a", 1))
	outside := t.TempDir()
	write(t, filepath.Join(outside, "b.yaml"), backend("b", 1))
	for name, target := range map[string]string{"l1": ".", "l2": dir, "sub/up": "..", "sub/self": ".", "l3": "sub", "out": outside, "mutual": "mutual"} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	f := follow(t, folder.Config{Folders: []string{dir}})
	require.Equal(t, "a:1 b:1", say(f.next()), "each file is read once")
	replace(t, filepath.Join(outside, "b.yaml"), backend("b", 2))
	f.until("a:1 b:2", nil)
}

func TestDepthIsBounded(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1))
	write(t, f.path(strings.Repeat("d/", 17)+"x.yaml"), backend("x", 1))
	write(t, f.path(strings.Repeat("d/", 16)+"y.yaml"), backend("y", 1))
	f.until("a:1 y:1 !WEIR1008", f.always("a:1"))
}

func TestManyFiles(t *testing.T) {
	dir := t.TempDir()
	for i := range 10_000 {
		write(t, filepath.Join(dir, fmt.Sprintf("%05d.yaml", i)), backend(fmt.Sprintf("b%05d", i), 1))
	}
	f := follow(t, folder.Config{Folders: []string{dir}, KeepFile: filepath.Join(t.TempDir(), "keep.json")})
	require.Len(t, f.next().Input.Objects, 10_000)
	began := time.Now()
	replace(t, filepath.Join(dir, "00000.yaml"), backend("b00000", 2))
	for !strings.Contains(say(f.next()), "b00000:2") {
		require.Less(t, time.Since(began), patience)
	}
	t.Logf("one edit among 10,000 files took %v", time.Since(began))
	write(t, filepath.Join(dir, "one-more.yaml"), backend("one-more", 1))
	f.next()
	require.Len(t, f.last.Input.Objects, 10_000, "what it held stays")
	require.Contains(t, f.last.Problems[0].Message, "more than 10000 policy files")
}

func TestTwoHundredEditsInARow(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1), "b.yaml", backend("b", 1))
	for port := 2; port <= 200; port++ {
		if port%2 == 0 {
			replace(t, f.path("a.yaml"), backend("a", port))
		} else {
			write(t, f.path("a.yaml"), backend("a", port))
		}
	}
	f.until("a:200 b:1", func(said string) {
		require.Contains(t, said, "a:")
		require.Contains(t, said, "b:1")
	})
}

func TestLatency(t *testing.T) {
	f := started(t, "a.yaml", backend("a", 1))
	var took []time.Duration
	for port := 2; port < 22; port++ {
		replace(t, f.path("a.yaml"), backend("a", port))
		took = append(took, f.until(fmt.Sprint("a:", port), nil))
	}
	slices.Sort(took)
	t.Logf("saved to emitted: median %v, most %v", took[len(took)/2], took[len(took)-1])
}

// A file in the place of another is taken once its writer is done, and not
// before, however it got there.
func TestAnotherFileThatIsBeingWritten(t *testing.T) {
	f := started(t, "all.yaml", backend("a", 1)+backend("b", 1))
	require.NoError(t, os.Rename(f.path("all.yaml"), filepath.Join(f.dir, "all.yaml~")))
	file, err := os.Create(f.path("all.yaml"))
	require.NoError(t, err)
	for _, half := range []string{backend("a", 2), backend("b", 2)} {
		_, err := file.WriteString(half)
		require.NoError(t, err)
		time.Sleep(20 * time.Millisecond) // the pace of the writer
	}
	require.NoError(t, file.Close())
	f.until("a:2 b:2", func(said string) {
		require.Contains(t, []string{"a:1 b:1", "a:2 b:2"}, said)
	})
}
