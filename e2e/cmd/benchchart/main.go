// Command benchchart turns the output of go test -bench into a table and a
// picture.
package main

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// result is one benchmark.
type result struct {
	pkg, name string
	ns        float64
	bytes     string
	allocs    string
}

func main() {
	in := flag.String("in", "", "`file` with the output of go test -bench -benchmem")
	svg := flag.String("svg", "", "`file` for the picture")
	table := flag.String("table", "", "`file` for the table")
	flag.Parse()
	if err := run(*in, *svg, *table); err != nil {
		fmt.Fprintln(os.Stderr, "benchchart:", err)
		os.Exit(1)
	}
}

func run(in, svg, table string) error {
	results, err := read(in)
	if err != nil {
		return err
	}
	if len(results) == 0 {
		return fmt.Errorf("%s holds no benchmark", in)
	}
	markdown := render(results)
	fmt.Print("\n" + markdown)
	if err := os.MkdirAll(filepath.Dir(svg), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(table, []byte("# Benchmarks\n\nMade by `make bench`; compare within one table, not across machines.\n\n![benchmarks]("+filepath.Base(svg)+")\n\n"+markdown), 0o644); err != nil {
		return err
	}
	return os.WriteFile(svg, []byte(draw(results)), 0o644)
}

var line = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op(.*)$`)

func read(path string) ([]result, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var results []result
	pkg := ""
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if name, ok := strings.CutPrefix(scanner.Text(), "pkg: weir.dev/"); ok {
			pkg = name
		}
		found := line.FindStringSubmatch(scanner.Text())
		if found == nil {
			continue
		}
		ns, err := strconv.ParseFloat(found[2], 64)
		if err != nil {
			return nil, err
		}
		results = append(results, result{pkg: pkg, name: found[1], ns: ns, bytes: field(found[3], "B/op"), allocs: field(found[3], "allocs/op")})
	}
	slices.SortStableFunc(results, func(a, b result) int { return cmp.Compare(a.pkg, b.pkg) })
	return results, scanner.Err()
}

func field(rest, unit string) string {
	words := strings.Fields(rest)
	for i, word := range words {
		if word == unit && i > 0 {
			return words[i-1]
		}
	}
	return ""
}

func render(results []result) string {
	var b strings.Builder
	b.WriteString("| package | benchmark | time/op | B/op | allocs/op |\n| --- | --- | ---: | ---: | ---: |\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.pkg, r.name, duration(r.ns), r.bytes, r.allocs)
	}
	return b.String()
}

func duration(ns float64) string {
	switch {
	case ns < 1e3:
		return fmt.Sprintf("%.0f ns", ns)
	case ns < 1e6:
		return fmt.Sprintf("%.2f µs", ns/1e3)
	default:
		return fmt.Sprintf("%.2f ms", ns/1e6)
	}
}

// draw is a bar per benchmark on a logarithmic scale from 10 ns to the longest.
func draw(results []result) string {
	const row, left, width = 20, 420, 420
	longest := 10.0
	for _, r := range results {
		longest = max(longest, r.ns)
	}
	var b strings.Builder
	height := row*len(results) + 30
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+width+100, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="16" fill="#555">time per operation, logarithmic</text>`+"\n", left)
	for i, r := range results {
		y := 26 + i*row
		length := max(2, math.Log10(max(r.ns, 10)/10)/max(1, math.Log10(longest/10))*width)
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+13, html.EscapeString(r.pkg+" "+r.name))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.0f" height="14" fill="#3b7dd8"/>`, left, y+2, length)
		fmt.Fprintf(&b, `<text x="%.0f" y="%d" fill="#333">%s</text>`+"\n", float64(left)+length+6, y+13, duration(r.ns))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
