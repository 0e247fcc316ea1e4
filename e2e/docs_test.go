package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// block is one example of a guide that is run.
type block struct {
	// line is where its comment stands, from 1.
	line int
	// mode is "" for a block that must succeed, "fails" for one that must not, and
	// "retry" for one that may be run again until its output is as expected, since
	// what it looks at takes a moment to change.
	mode   string
	expect []string
	script string
}

var directive = regexp.MustCompile(`^<!-- (run|expect): ?(.*?) ?-->$|^<!-- (run) -->$`)

// blocksOf extracts the ```sh blocks that "<!-- run -->" precedes, with the
// "<!-- expect: text -->" lines between the two.
func blocksOf(guide string) ([]block, error) {
	var blocks []block
	var pending *block
	lines := strings.Split(guide, "\n")
	for i := 0; i < len(lines); i++ {
		found := directive.FindStringSubmatch(strings.TrimSpace(lines[i]))
		switch {
		case found != nil && found[1] == "expect":
			if pending == nil {
				return nil, fmt.Errorf("line %d: expect without run before it", i+1)
			}
			pending.expect = append(pending.expect, found[2])
		case found != nil:
			if pending != nil {
				return nil, fmt.Errorf("line %d: no sh block follows this run", pending.line)
			}
			if found[2] != "" && found[2] != "fails" && found[2] != "retry" {
				return nil, fmt.Errorf("line %d: run: %s is not known; write fails, retry or nothing", i+1, found[2])
			}
			pending = &block{line: i + 1, mode: found[2]}
		case pending != nil && lines[i] == "```sh":
			end := i + 1
			for end < len(lines) && lines[end] != "```" {
				end++
			}
			if end == len(lines) {
				return nil, fmt.Errorf("line %d: the block does not end", i+1)
			}
			pending.script = strings.Join(lines[i+1:end], "\n")
			blocks, pending, i = append(blocks, *pending), nil, end
		case pending != nil && strings.TrimSpace(lines[i]) != "":
			return nil, fmt.Errorf("line %d: no sh block follows this run", pending.line)
		}
	}
	if pending != nil {
		return nil, fmt.Errorf("line %d: no sh block follows this run", pending.line)
	}
	return blocks, nil
}

const (
	blockTimeout = time.Minute
	retryFor     = 10 * time.Second
	retryEvery   = 100 * time.Millisecond
)

// runBlocks runs a guide's blocks in order, each by a sh of its own, in dir.
// Variables that one sets are there for the next.
func runBlocks(ctx context.Context, blocks []block, dir string, env []string) error {
	if len(blocks) == 0 {
		return errors.New("nothing in it is run: mark an example with <!-- run -->")
	}
	variables, err := os.CreateTemp("", "weir-guide-")
	if err != nil {
		return err
	}
	defer os.Remove(variables.Name())
	defer variables.Close()
	env = append(env, "GUIDE_VARIABLES="+variables.Name())
	for _, b := range blocks {
		started := time.Now()
		for {
			err := runBlock(ctx, b, dir, env)
			if err == nil {
				break
			}
			if b.mode != "retry" || time.Since(started) > retryFor {
				return fmt.Errorf("line %d: %w", b.line, err)
			}
			time.Sleep(retryEvery)
		}
	}
	return nil
}

func runBlock(ctx context.Context, b block, dir string, env []string) error {
	ctx, cancel := context.WithTimeout(ctx, blockTimeout)
	defer cancel()
	shell := exec.CommandContext(ctx, "sh", "-c", "set -ea\n. \"$GUIDE_VARIABLES\"\n"+b.script+"\nexport -p > \"$GUIDE_VARIABLES\"\n")
	shell.Dir, shell.Env = dir, env
	out, err := shell.CombinedOutput()
	switch {
	case b.mode == "fails" && err == nil:
		return fmt.Errorf("succeeded and should not have:\n%s\n%s", b.script, out)
	case b.mode != "fails" && err != nil:
		return fmt.Errorf("%w:\n%s\n%s", err, b.script, out)
	}
	for _, want := range b.expect {
		if !strings.Contains(string(out), want) {
			return fmt.Errorf("%q is not in what this printed:\n%s\n%s", want, b.script, out)
		}
	}
	return nil
}

func guides(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(harness.Root(t), "docs", "guides", "*.md"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(found), 5)
	return found
}

// What the guides say works, as it stands there.
func TestGuides(t *testing.T) {
	for _, path := range guides(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".md"), func(t *testing.T) {
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			blocks, err := blocksOf(string(raw))
			require.NoError(t, err)
			s := harness.Start(t, nil)
			env := append(os.Environ(), "WEIR="+harness.Bin(t, "weir"), "WEIR_STATE_DIR="+s.State, "POLICY="+s.Policy,
				"URL="+s.URL, "API_KEY="+s.APIKey, "TOKEN="+s.Token, "TMPDIR="+tempDirOf(t))
			require.NoError(t, runBlocks(t.Context(), blocks, harness.Root(t), env))
		})
	}
}

func tempDirOf(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir-guide-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// The guides' test must be able to fail.
func TestGuideRunnerRefuses(t *testing.T) {
	const fence = "```"
	for _, c := range []struct{ name, guide, problem string }{
		{"good", "<!-- run -->\n<!-- expect: 42 -->\n" + fence + "sh\nX=42; echo $X\n" + fence + "\n<!-- run -->\n<!-- expect: 42 again -->\n" + fence + "sh\necho $X again\n" + fence, ""},
		{"fails as it should", "<!-- run: fails -->\n<!-- expect: oh -->\n" + fence + "sh\necho oh; false\n" + fence, ""},
		{"nothing to run", fence + "sh\ntrue\n" + fence, "nothing in it is run"},
		{"failing command", "<!-- run -->\n" + fence + "sh\nfalse\necho on\n" + fence, "line 1: exit status 1"},
		{"missing text", "<!-- run -->\n<!-- expect: there -->\n" + fence + "sh\necho here\n" + fence, `"there" is not in`},
		{"does not fail", "<!-- run: fails -->\n" + fence + "sh\ntrue\n" + fence, "should not have"},
		{"no block", "<!-- run -->\n\ntext\n", "no sh block follows"},
		{"other block", "<!-- run -->\n" + fence + "yaml\na: b\n" + fence, "no sh block follows"},
		{"open block", "<!-- run -->\n" + fence + "sh\ntrue\n", "does not end"},
		{"unknown mode", "<!-- run: often -->\n" + fence + "sh\ntrue\n" + fence, "is not known"},
		{"expect alone", "<!-- expect: x -->\n", "expect without run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			blocks, err := blocksOf(c.guide)
			if err == nil {
				err = runBlocks(t.Context(), blocks, t.TempDir(), os.Environ())
			}
			if c.problem == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.problem)
		})
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// brokenLinks lists the relative links of a page that lead nowhere.
func brokenLinks(dir, page string) []string {
	var broken []string
	for _, found := range link.FindAllStringSubmatch(page, -1) {
		target, _, _ := strings.Cut(found[1], "#")
		if target == "" || strings.Contains(target, "://") {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, target)); err != nil {
			broken = append(broken, found[1])
		}
	}
	return broken
}

func TestLinksLeadSomewhere(t *testing.T) {
	root := harness.Root(t)
	pages := []string{filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		pages = append(pages, found...)
	}
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		require.NoError(t, err)
		require.Empty(t, brokenLinks(filepath.Dir(page), string(raw)), page)
	}
	require.Equal(t, []string{"no/such.md#x"}, brokenLinks(root, "[a](README.md) [b](no/such.md#x) [c](https://example.com) [d](#here)"))
}

// undocumented lists the direct third-party requirements of a go.mod that a
// page doesn't name.
func undocumented(goMod, page string) []string {
	var missing []string
	for _, found := range regexp.MustCompile(`(?m)^(?:require )?\s*([a-z0-9.-]+\.[a-z]+/\S+) v\S+$`).FindAllStringSubmatch(goMod, -1) {
		if !strings.HasPrefix(found[1], "weir.dev/") && !strings.Contains(page, "`"+found[1]+"`") {
			missing = append(missing, found[1])
		}
	}
	return missing
}

func TestDependenciesAreDocumented(t *testing.T) {
	root := harness.Root(t)
	page, err := os.ReadFile(filepath.Join(root, "docs", "adr", "0002-dependencies.md"))
	require.NoError(t, err)
	modules, err := filepath.Glob(filepath.Join(root, "*", "go.mod"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(modules), 9)
	for _, module := range modules {
		raw, err := os.ReadFile(module)
		require.NoError(t, err)
		require.Empty(t, undocumented(string(raw), string(page)), "%s: add it to docs/adr/0002-dependencies.md", module)
	}
	require.Equal(t, []string{"example.com/new"}, undocumented("require (\n\texample.com/new v1.0.0\n\texample.com/far v1.0.0 // indirect\n)\n", ""))
}
