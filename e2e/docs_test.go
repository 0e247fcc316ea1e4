package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/guide"
	"weir.dev/e2e/internal/harness"
)

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
			blocks, err := guide.Blocks(string(raw))
			require.NoError(t, err)
			// The kubernetes suite runs those.
			blocks = slices.DeleteFunc(blocks, func(b guide.Block) bool { return b.Mode == guide.Kubernetes })
			s := harness.Start(t, nil)
			env := append(os.Environ(), "WEIR="+harness.Bin(t, "weir"), "WEIR_STATE_DIR="+s.State, "POLICY="+s.Policy,
				"URL="+s.URL, "API_KEY="+s.APIKey, "TOKEN="+s.Token, "TMPDIR="+tempDirOf(t), "WORK="+tempDirOf(t))
			require.NoError(t, guide.Run(t.Context(), blocks, harness.Root(t), env))
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
	for _, c := range []struct{ name, text, problem string }{
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
			blocks, err := guide.Blocks(c.text)
			if err == nil {
				err = guide.Run(t.Context(), blocks, t.TempDir(), os.Environ())
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
