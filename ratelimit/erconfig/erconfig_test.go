package erconfig_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit/erconfig"
)

func load(t testing.TB, texts ...string) (*erconfig.Config, error) {
	t.Helper()
	var files []erconfig.File
	for i, text := range texts {
		files = append(files, erconfig.File{Name: string(rune('a'+i)) + ".yaml", Content: []byte(text)})
	}
	return erconfig.Load(files, erconfig.Options{})
}

const shop = `
domain: shop
descriptors:
  - key: tier
    value: free
    rate_limit: {unit: minute, requests_per_unit: 10, name: free}
    descriptors:
      - key: path
        value: /orders*
        share_threshold: true
        rate_limit: {unit: DAY, requests_per_unit: 5}
      - key: path
        value: /a*b*c
        value_to_metric: true
        rate_limit: {unit: hour, requests_per_unit: 6}
      - key: path
        rate_limit: {unit: hour, requests_per_unit: 7}
        value_to_metric: true
  - key: tier
    rate_limit: {unlimited: true, replaces: [{name: free}, {name: other}]}
  - key: a
    value: b_c
    rate_limit: {unit: second, requests_per_unit: 1}
  - key: a_b
    value: c
    detailed_metric: true
    shadow_mode: true
    quota_mode: true
    metadata: {team: [x, 1], nested: {y: true}}
    rate_limit: {unit: year, requests_per_unit: 2}
  - key: only
    descriptors:
      - key: leaf
        rate_limit: {unit: week, requests_per_unit: 3}
  - key: wild*
    rate_limit: {unit: month, requests_per_unit: 4}
`

func TestMatch(t *testing.T) {
	config, err := load(t, shop)
	require.NoError(t, err)
	require.Len(t, config.Limits(), 9)
	for name, test := range map[string]struct {
		entries string // "key=value,key=value"
		numbers uint32
		metric  string
		shared  []string
		none    bool
	}{
		"exact value":                     {entries: "tier=free", numbers: 10, metric: "shop.tier_free"},
		"bare key":                        {entries: "tier=gold", metric: "shop.tier"},
		"bare key without value":          {entries: "tier=", metric: "shop.tier"},
		"wildcard at the end, shared":     {entries: "tier=free,path=/orders/7", numbers: 5, metric: "shop.tier_free.path_/orders*", shared: []string{"", "/orders*"}},
		"wildcard of nothing":             {entries: "tier=free,path=/orders", numbers: 5, metric: "shop.tier_free.path_/orders*", shared: []string{"", "/orders*"}},
		"the wildcard's own text is read": {entries: "tier=free,path=/orders*", numbers: 5, metric: "shop.tier_free.path_/orders*"},
		"wildcard inside, in the metric":  {entries: "tier=free,path=/axbyc", numbers: 6, metric: "shop.tier_free.path_/axbyc"},
		"wildcard inside, out of order":   {entries: "tier=free,path=/acxb", numbers: 7, metric: "shop.tier_free.path_/acxb"},
		"parts may not overlap":           {entries: "tier=free,path=/abc", numbers: 6, metric: "shop.tier_free.path_/abc"},
		"bare key below":                  {entries: "tier=free,path=/other", numbers: 7, metric: "shop.tier_free.path_/other"},
		"key and value apart":             {entries: "a=b_c", numbers: 1, metric: "shop.a_b_c"},
		"key and value apart, too":        {entries: "a_b=c", numbers: 2, metric: "shop.a_b_c"},
		"too shallow":                     {entries: "only=x", none: true},
		"deep enough":                     {entries: "only=x,leaf=y", numbers: 3, metric: "shop.only.leaf"},
		"too deep":                        {entries: "only=x,leaf=y,more=z", none: true},
		"no such key":                     {entries: "nothing=x", none: true},
		"wildcard in the key":             {entries: "wildcat=x", numbers: 4, metric: "shop.wild*"},
	} {
		t.Run(name, func(t *testing.T) {
			match := config.Match("shop", entries(test.entries))
			if test.none {
				require.Zero(t, match)
				return
			}
			require.NotNil(t, match.Limit)
			require.Equal(t, test.numbers, match.Limit.RequestsPerUnit)
			require.Equal(t, test.metric, match.Metric)
			require.Equal(t, test.shared, match.Shared)
		})
	}
	require.Zero(t, config.Match("other", entries("tier=free")))
	require.False(t, config.Known("other"))
	require.Zero(t, config.Match("shop", nil))
}

func entries(text string) (list []erconfig.Entry) {
	for pair := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(pair, "=")
		list = append(list, erconfig.Entry{Key: key, Value: value})
	}
	return list
}

func TestLimits(t *testing.T) {
	config, err := load(t, shop)
	require.NoError(t, err)
	require.True(t, config.Known("shop"))
	require.Equal(t, 1, config.Domains())
	all := config.Match("shop", entries("a_b=c")).Limit
	require.Equal(t, &erconfig.Limit{
		RequestsPerUnit: 2, Unit: erconfig.Year, Shadow: true, Quota: true, DetailedMetric: true, Path: "shop.a_b_c", File: "a.yaml", Line: 24,
		Metadata: map[string]any{"team": []any{"x", 1}, "nested": map[string]any{"y": true}},
	}, all)
	unlimited := config.Match("shop", entries("tier=x")).Limit
	require.True(t, unlimited.Unlimited)
	require.Equal(t, []string{"free", "other"}, unlimited.Replaces)
	require.Equal(t, "day", config.Match("shop", entries("tier=free,path=/orders")).Limit.Unit.String())
	hours := map[erconfig.Unit]float64{erconfig.Week: 168, erconfig.Month: 720, erconfig.Year: 8760}
	for unit, want := range hours {
		require.InDelta(t, want, unit.Duration().Hours(), 0)
	}
}

// Every mistake, each with its place, and nothing of a configuration with one.
func TestMistakes(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"empty":            {"", []string{"a.yaml: domain: is required; the file is empty"}},
		"no mapping":       {"[]", []string{"a.yaml:1: must be a mapping with domain, descriptors"}},
		"no domain":        {"descriptors: []", []string{"a.yaml:1: domain: is required"}},
		"not YAML":         {"domain: [", []string{"a.yaml:1: not YAML: did not find expected node content"}},
		"a tab":            {"domain: a\ndescriptors:\n\t- key: x", []string{"a.yaml:3: not YAML: a tab in the indentation; write spaces"}},
		"a tab after":      {"domain: a\ndescriptors:\n - key: x\n \t value: y", []string{"a.yaml:4: not YAML: a tab in the indentation; write spaces"}},
		"a tab of a key":   {"domain: a\n\tdescriptors: []", []string{"a.yaml:2: not YAML: a tab in the indentation; write spaces"}},
		"a tab in a text":  {"domain: a\ndescriptors:\n- key: \"a\tb\"\n   value: c", []string{"a.yaml:2: not YAML: did not find expected key"}},
		"no tab":           {"domain: a\ndescriptors: @b", []string{"a.yaml:2: not YAML: found character that cannot start any token; a text that begins with @, ` or % stands in quotes"}},
		"unknown alias":    {"domain: *a", []string{"a.yaml: not YAML: unknown anchor"}},
		"two documents":    {"domain: a\n---\ndomain: b", []string{"more than one document"}},
		"unknown key":      {"domain: a\nlimits: []", []string{"a.yaml:2: limits: is not known here; there are domain, descriptors"}},
		"key twice":        {"domain: a\ndomain: b", []string{"a.yaml:2: domain: is written twice"}},
		"list of texts":    {"domain: a\ndescriptors: [x]", []string{"a.yaml:2: descriptors[0]: must be a mapping"}},
		"no list":          {"domain: a\ndescriptors: {}", []string{"a.yaml:2: descriptors: must be a list"}},
		"no key":           {"domain: a\ndescriptors: [{value: x}]", []string{"descriptors[0].key: is required"}},
		"same twice":       {"domain: a\ndescriptors:\n- {key: k, value: v}\n- {key: k, value: v}\n- {key: k}\n- {key: k}", []string{"a.yaml:4: descriptors[1]: a.k_v is there already", "a.yaml:6: descriptors[3]: a.k is there already"}},
		"no unit":          {limit("requests_per_unit: 1"), []string{"rate_limit.unit: is required: one of second, minute"}},
		"bad unit":         {limit("unit: fortnight"), []string{`rate_limit.unit: "fortnight" is none of second`}},
		"unit unknown":     {limit("unit: UNKNOWN"), []string{`rate_limit.unit: "UNKNOWN" is none of second`}},
		"unlimited, unit":  {limit("unlimited: true, unit: day"), []string{"rate_limit.unit: does not go with unlimited"}},
		"negative":         {limit("unit: day, requests_per_unit: -1"), []string{"requests_per_unit: must be a whole number"}},
		"too many":         {limit("unit: day, requests_per_unit: 4294967296"), []string{"requests_per_unit: must be a whole number"}},
		"no flag":          {"domain: a\ndescriptors: [{key: k, shadow_mode: maybe}]", []string{"shadow_mode: must be true or false"}},
		"replaces itself":  {limit("unit: day, name: n, replaces: [{name: n}]"), []string{`replaces[0].name: "n" is the limit itself`}},
		"replaces nothing": {limit("unit: day, replaces: [{name: ''}, {}]"), []string{"replaces[0].name: is required", "replaces[1].name: is required"}},
		"share, no star":   {"domain: a\ndescriptors: [{key: k, value: v, share_threshold: true}]", []string{"share_threshold: needs a value with a wildcard"}},
		"metadata":         {"domain: a\ndescriptors: [{key: k, metadata: [x]}, {key: l, metadata: x}]", []string{"descriptors[0].metadata: must be a mapping", "descriptors[1].metadata: must be a mapping"}},
		"all at once":      {"domain: a\nx: 1\ndescriptors:\n- {key: '', y: 2}\n- {key: k, rate_limit: {unit: z, w: 3}}", []string{"a.yaml:2: x: is not", "descriptors[0].y: is not", "descriptors[0].key: is", "descriptors[1].rate_limit.w: is not", "descriptors[1].rate_limit.unit: "}},
		"itself inside":    {"domain: a\ndescriptors: &x\n- {key: k, descriptors: *x}", []string{"nests deeper than 16 levels"}},
		"bomb":             {"domain: a\ndescriptors: &x\n- {key: k, descriptors: *x}\n- {key: l, descriptors: *x}\n- {key: m, descriptors: *x}", []string{"nests deeper than 16 levels"}},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := load(t, test.text)
			require.Nil(t, config)
			var problems erconfig.Problems
			require.ErrorAs(t, err, &problems)
			for _, want := range test.want {
				require.ErrorContains(t, err, want)
			}
			require.Len(t, problems, len(test.want))
		})
	}
}

func TestTooManyDescriptors(t *testing.T) {
	var text strings.Builder
	text.WriteString("domain: a\ndescriptors:\n- key: l\n  descriptors: &leaf\n")
	for i := range 400 {
		fmt.Fprintf(&text, "  - {key: k%d}\n", i)
	}
	for i := range 400 {
		fmt.Fprintf(&text, "- {key: l%d, descriptors: *leaf}\n", i)
	}
	_, err := load(t, text.String())
	require.ErrorContains(t, err, "more than 100000 descriptors, aliases counted each time")
}

func limit(fields string) string {
	return "domain: a\ndescriptors: [{key: k, rate_limit: {" + fields + "}}]"
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	config, err := load(t, `
domain: a
descriptors:
  - &base
    key: k
    value: one
    rate_limit: &limit {unit: hour, requests_per_unit: 5}
  - <<: *base
    value: two
  - key: other
    rate_limit: {<<: [*limit], requests_per_unit: 6}
`)
	require.NoError(t, err)
	require.EqualValues(t, 5, config.Match("a", entries("k=two")).Limit.RequestsPerUnit)
	other := config.Match("a", entries("other=x")).Limit
	require.EqualValues(t, 6, other.RequestsPerUnit)
	require.Equal(t, erconfig.Hour, other.Unit)
}

func TestOneDomainInTwoFiles(t *testing.T) {
	first, second := "domain: a\ndescriptors: [{key: k}]", "domain: a\ndescriptors: [{key: l, rate_limit: {unit: day, requests_per_unit: 1}}]"
	_, err := load(t, first, second)
	require.EqualError(t, err, `b.yaml:1: domain: "a" is configured in a.yaml already; give it another name, or set MERGE_DOMAIN_CONFIG to join both`)
	merged, err := erconfig.Load([]erconfig.File{{Name: "1", Content: []byte(first)}, {Name: "2", Content: []byte(second)}}, erconfig.Options{MergeDomains: true})
	require.NoError(t, err)
	require.NotNil(t, merged.Match("a", entries("l=x")).Limit)
	_, err = erconfig.Load([]erconfig.File{{Name: "1", Content: []byte(first)}, {Name: "2", Content: []byte(first)}}, erconfig.Options{MergeDomains: true})
	require.ErrorContains(t, err, "2:2: descriptors[0]: a.k is there already")
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	// As a ConfigMap is mounted: files are links through ..data.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "..2026_11_21"), 0o700))
	write("..2026_11_21/b.yaml", "domain: b")
	require.NoError(t, os.Symlink("..2026_11_21", filepath.Join(dir, "..data")))
	require.NoError(t, os.Symlink("..data/b.yaml", filepath.Join(dir, "b.yaml")))
	write("a.yaml", "domain: a")
	write(".hidden", "domain: c")
	names := func(ignoreHidden bool) (list []string) {
		files, err := erconfig.ReadDir(dir, ignoreHidden)
		require.NoError(t, err)
		for _, file := range files {
			list = append(list, filepath.Base(file.Name)+" "+string(file.Content))
		}
		return list
	}
	require.Equal(t, []string{"a.yaml domain: a", "b.yaml domain: b"}, names(true))
	require.Equal(t, []string{".hidden domain: c", "a.yaml domain: a", "b.yaml domain: b"}, names(false))
	_, err := erconfig.ReadDir(filepath.Join(dir, "nothing"), true)
	require.ErrorContains(t, err, "configuration folder")
}

func FuzzLoad(f *testing.F) {
	f.Add(shop)
	f.Add("domain: a\ndescriptors: &x\n- {key: k, descriptors: *x}")
	f.Add("domain: a\n<<: {descriptors: []}")
	f.Fuzz(func(t *testing.T, text string) {
		config, err := load(t, text)
		if err != nil {
			require.Nil(t, config)
			return
		}
		for _, limit := range config.Limits() {
			require.NotEmpty(t, limit.Path)
			require.True(t, limit.Unlimited || limit.Unit.Duration() > 0)
		}
		config.Match("shop", entries("tier=free,path=/orders"))
	})
}

func BenchmarkMatch(b *testing.B) {
	config, err := load(b, shop)
	require.NoError(b, err)
	for name, text := range map[string]string{"exact": "tier=free", "wildcard": "tier=free,path=/orders/7", "bare": "only=x,leaf=y"} {
		b.Run(name, func(b *testing.B) {
			list := entries(text)
			b.ReportAllocs()
			for b.Loop() {
				config.Match("shop", list)
			}
		})
	}
}
