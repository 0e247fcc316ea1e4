package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"
)

// written is a log of several segments, closed.
func written(t *testing.T) (dir string, key *Key) {
	t.Helper()
	dir, key = t.TempDir(), keyOf(t)
	f := open(t, dir, key, func(c *Config) { c.SegmentBytes = 64 << 10 })
	for i := range 150 {
		require.NoError(t, f.Append(t.Context(), fmt.Appendf(nil, `{"n":%d,"text":%q}`, i, strings.Repeat("x", 1000))))
		if i%40 == 39 {
			f.clock.Add(int64(2 * time.Second))
		}
	}
	f.Close()
	require.Empty(t, verify(t, dir, key).Findings, "negative control")
	return dir, key
}

func lines(t *testing.T, path string) [][]byte {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return bytes.SplitAfter(bytes.TrimSuffix(content, []byte("\n")), []byte("\n"))
}

func rewrite(t *testing.T, path string, all [][]byte) {
	t.Helper()
	content := bytes.Join(all, nil)
	if !bytes.HasSuffix(content, []byte("\n")) {
		content = append(content, '\n')
	}
	require.NoError(t, os.WriteFile(path, content, 0o600))
}

// rehashed makes the chain of a segment's records whole again after an edit, as
// somebody would who has no key.
func rehashed(t *testing.T, path string) {
	t.Helper()
	all := lines(t, path)
	h, err := parseHeader(bytes.TrimSpace(all[0]))
	require.NoError(t, err)
	current, err := treeOf(h)
	require.NoError(t, err)
	for i, line := range all {
		record, err := parseRecord(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			continue
		}
		fresh := appendRecord(nil, current.size, current.last, record.record)
		require.NoError(t, current.add(fresh))
		all[i] = append(fresh, '\n')
	}
	rewrite(t, path, all)
}

// The last of the segments' lines but checkpoints.
func lastRecord(all [][]byte) int {
	for i, line := range slices.Backward(all) {
		if bytes.HasPrefix(line, []byte(recordPrefix)) {
			return i
		}
	}
	return -1
}

func TestWhatVerifyFinds(t *testing.T) {
	edit := func(all [][]byte, at int) { all[at] = bytes.Replace(all[at], []byte("xxx"), []byte("yyy"), 1) }
	cases := []struct {
		name string
		do   func(t *testing.T, dir string, files []segment) []string
		want []string
	}{
		{"an edited record", func(t *testing.T, _ string, files []segment) []string {
			all := lines(t, files[0].path)
			edit(all, 5)
			rewrite(t, files[0].path, all)
			return nil
		}, []string{FindingEdited, FindingSignature}},
		{"an edited record, with the chain made whole", func(t *testing.T, _ string, files []segment) []string {
			all := lines(t, files[0].path)
			edit(all, 5)
			rewrite(t, files[0].path, all)
			rehashed(t, files[0].path)
			return nil
		}, []string{FindingSignature, FindingEdited}},
		{"a removed record", func(t *testing.T, _ string, files []segment) []string {
			rewrite(t, files[0].path, slices.Delete(lines(t, files[0].path), 5, 6))
			return nil
		}, []string{FindingGap, FindingSignature}},
		{"a removed record, with the chain made whole", func(t *testing.T, _ string, files []segment) []string {
			rewrite(t, files[0].path, slices.Delete(lines(t, files[0].path), 5, 6))
			rehashed(t, files[0].path)
			return nil
		}, []string{FindingSignature}},
		{"two records swapped", func(t *testing.T, _ string, files []segment) []string {
			all := lines(t, files[0].path)
			all[5], all[6] = all[6], all[5]
			rewrite(t, files[0].path, all)
			return nil
		}, []string{FindingReordered}},
		{"a record twice", func(t *testing.T, _ string, files []segment) []string {
			all := lines(t, files[0].path)
			rewrite(t, files[0].path, slices.Insert(all, 6, all[5]))
			return nil
		}, []string{FindingReordered}},
		{"a segment gone from the middle", func(t *testing.T, _ string, files []segment) []string {
			require.NoError(t, os.Remove(files[1].path))
			return nil
		}, []string{FindingGap}},
		{"the newest segment gone", func(t *testing.T, _ string, files []segment) []string {
			require.NoError(t, os.Remove(files[len(files)-1].path))
			return nil
		}, []string{FindingTruncated}},
		{"the end cut off", func(t *testing.T, _ string, files []segment) []string {
			path := files[len(files)-1].path
			all := lines(t, path)
			rewrite(t, path, all[:lastRecord(all)])
			return nil
		}, []string{FindingTruncated}},
		{"the end cut off, with the checkpoint beside it", func(t *testing.T, dir string, files []segment) []string {
			kept := saved(t, dir)
			path := files[len(files)-1].path
			all := lines(t, path)
			rewrite(t, path, all[:2])
			require.NoError(t, os.Remove(filepath.Join(dir, checkpointFile)))
			return []string{kept}
		}, []string{FindingTruncated}},
		{"a checkpoint by another key", func(t *testing.T, dir string, _ []segment) []string {
			signed, err := keyOf(t).sign(Checkpoint{Origin: origin, Size: 1})
			require.NoError(t, err)
			return []string{signed}
		}, []string{FindingSignature}},
		{"another log's segment", func(t *testing.T, _ string, files []segment) []string {
			all := lines(t, files[1].path)
			all[0] = bytes.Replace(all[0], []byte(origin), []byte("weir.test/other"), 1)
			rewrite(t, files[1].path, all)
			return nil
		}, []string{FindingFormat}},
		{"another root at the beginning of a segment", func(t *testing.T, _ string, files []segment) []string {
			all := lines(t, files[1].path)
			h, err := parseHeader(bytes.TrimSpace(all[0]))
			require.NoError(t, err)
			all[0] = bytes.Replace(all[0], []byte(h.Edge[0]), []byte(hashText(tlog.RecordHash(nil))), 1)
			rewrite(t, files[1].path, all)
			return nil
		}, []string{FindingSignature}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir, key := written(t)
			files, err := segments(dir)
			require.NoError(t, err)
			require.Greater(t, len(files), 2)
			report := verify(t, dir, key, c.do(t, dir, files)...)
			require.False(t, report.OK())
			var kinds []string
			for _, finding := range report.Findings {
				kinds = append(kinds, finding.Kind)
				require.NotEmpty(t, finding.Message)
			}
			for _, kind := range c.want {
				require.Contains(t, kinds, kind, "%+v", report.Findings)
			}
		})
	}
}

// Without a checkpoint kept elsewhere a cut that takes the signatures along is
// not to be seen, and the report says so.
func TestWhatVerifyCannotFind(t *testing.T) {
	dir, key := written(t)
	files, err := segments(dir)
	require.NoError(t, err)
	for _, s := range files[1:] {
		require.NoError(t, os.Remove(s.path))
	}
	require.NoError(t, os.Remove(filepath.Join(dir, checkpointFile)))
	report := verify(t, dir, key)
	require.Empty(t, report.Findings)
	require.Contains(t, strings.Join(report.Notes, " "), "kept elsewhere")
}

func TestTornEnd(t *testing.T) {
	for name, torn := range map[string]string{
		"half a line":       `{"seq":6,"prev":"AAAA`,
		"zeros":             strings.Repeat("\x00", 4096),
		"zeros and a line":  strings.Repeat("\x00", 100) + "\n{}\n",
		"another's record":  `{"seq":6,"prev":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","record":{}}` + "\n",
		"a line of nothing": "\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, t.TempDir(), keyOf(t), nil)
			f.append(t, 0, 5)
			f.Close()
			files, err := segments(f.dir)
			require.NoError(t, err)
			file, err := os.OpenFile(files[0].path, os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = file.WriteString(torn)
			require.NoError(t, err)
			require.NoError(t, file.Close())
			again := open(t, f.dir, f.key, nil)
			require.True(t, again.Healthy())
			again.append(t, 5, 6)
			again.Close()
			report := verify(t, f.dir, f.key)
			require.Empty(t, report.Findings)
			require.Equal(t, 1, report.Recoveries)
			kept, err := filepath.Glob(filepath.Join(f.dir, "torn-*"))
			require.NoError(t, err)
			require.Len(t, kept, 1)
			content, err := os.ReadFile(kept[0])
			require.NoError(t, err)
			require.Equal(t, torn, string(content), "nothing is thrown away")
			require.Len(t, records(t, f.dir), 6)
		})
	}
}

// A segment that was being begun has nothing in it.
func TestTornBeginning(t *testing.T) {
	dir, key := written(t)
	last, err := Last(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, segmentName(last)), []byte(`{"weirAudit":1,"ori`), 0o600))
	f := open(t, dir, key, func(c *Config) { c.SegmentBytes = 64 << 10 })
	f.append(t, 0, 1)
	f.Close()
	require.Empty(t, verify(t, dir, key).Findings)
}

// A log that was changed is not continued as if nothing had been.
func TestDamagedLogIsNotContinued(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir, path string){
		"edited": func(t *testing.T, _, path string) {
			all := lines(t, path)
			all[3] = bytes.Replace(all[3], []byte(`"n"`), []byte(`"m"`), 1)
			rewrite(t, path, all)
		},
		"cut off": func(t *testing.T, _, path string) { rewrite(t, path, lines(t, path)[:2]) },
		"gone":    func(t *testing.T, _, path string) { require.NoError(t, os.Remove(path)) },
		"another key": func(t *testing.T, dir, _ string) {
			signed, err := keyOf(t).sign(Checkpoint{Origin: origin, Size: 1})
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, checkpointFile), []byte(signed), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, t.TempDir(), keyOf(t), nil)
			f.append(t, 0, 5)
			f.Close()
			files, err := segments(f.dir)
			require.NoError(t, err)
			damage(t, f.dir, files[0].path)
			again := open(t, f.dir, f.key, nil)
			require.False(t, again.Healthy())
			require.ErrorIs(t, again.Append(t.Context(), []byte(`{}`)), ErrDamaged)
		})
	}
}

func TestFollow(t *testing.T) {
	f := open(t, t.TempDir(), keyOf(t), nil)
	f.append(t, 0, 3)
	seen := make(chan string, 100)
	done := make(chan error, 1)
	stop := fmt.Errorf("enough")
	go func() {
		done <- Read(t.Context(), f.dir, ReadOptions{From: 2, Follow: true}, func(seq int64, record []byte) error {
			seen <- fmt.Sprint(seq, string(record))
			if seq == 5 {
				return stop
			}
			return nil
		})
	}()
	require.Equal(t, `2{"n":1}`, <-seen)
	f.append(t, 3, 6)
	require.ErrorIs(t, <-done, stop)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"seq":1,"prev":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","record":{"a":1}}`))
	f.Add([]byte(`{"checkpoint":"weir\n1\nAAAA\n"}`))
	f.Add([]byte(`{"weirAudit":1,"origin":"o","first":3,"edge":["x"]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if record, err := parseRecord(line); err == nil {
			require.Equal(t, string(line), string(appendRecord(nil, record.seq, record.previous, record.record)), "one spelling")
		}
		if h, err := parseHeader(line); err == nil {
			_, _ = treeOf(h)
		}
		if signed, ok := parseCheckpointLine(line); ok {
			_, _ = parseCheckpoint(signed)
		}
	})
}
