package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"weir.dev/policy"
)

// Bounds of sharding.
const (
	// shardAbove is what Options.ShardAbove is by default: below, Envoy takes a few
	// milliseconds for all.
	shardAbove = 256
	// maxShards bounds the expression that Envoy evaluates for each request.
	maxShards = 256
	// maxBoundary is the longest text that requests are told apart by, in bytes.
	maxBoundary = 128
)

// span is a range of texts: from low, to high without it; no high is no end.
type span struct{ low, high string }

func (s span) isAll() bool { return s.low == "" && s.high == "" }

// before reports whether part of the span is before a boundary, after whether
// part of it is not.
func (s span) before(boundary string) bool { return s.low < boundary }
func (s span) after(boundary string) bool  { return s.high == "" || s.high > boundary }

// point holds one text.
func point(text string) span { return span{text, text + "\x00"} }

// beginningWith holds what starts with a prefix.
func beginningWith(prefix string) span {
	end := []byte(prefix)
	for len(end) > 0 && end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	if len(end) == 0 {
		return span{low: prefix}
	}
	end[len(end)-1]++
	return span{prefix, string(end)}
}

// hostSpan holds the hosts that a virtual host may be chosen for. A wildcard's
// are everywhere in the order of texts.
func hostSpan(name string) span {
	if strings.HasPrefix(name, "*") {
		return span{}
	}
	return point(strings.ToLower(name))
}

// pathSpan holds all paths that a match may take, and others perhaps. It follows
// routeMatch.
func (c *Cache) pathSpan(match *policy.PathMatch) span {
	switch {
	case match.Kind == policy.PathExact:
		return point(match.Value)
	case match.Kind == policy.PathRegex:
		return c.regexSpan(match.Value)
	case strings.Trim(match.Value, "/") == "":
		return span{}
	default:
		// The path itself, or with a slash and more; "0" comes after "/".
		prefix := strings.TrimSuffix(match.Value, "/")
		return span{prefix, prefix + "0"}
	}
}

// regexSpan knows the text that all matches begin with, if there is one.
func (c *Cache) regexSpan(pattern string) span {
	if known, ok := c.regexes[pattern]; ok {
		return known
	}
	found := span{}
	// Envoy's expressions match the whole path, so also its beginning. What Go does
	// not read (RE2 has a few more forms) may match anything.
	if compiled, err := regexp.Compile(pattern); err == nil {
		if prefix, _ := compiled.LiteralPrefix(); prefix != "" {
			found = beginningWith(prefix)
		}
	}
	if c.regexes == nil || len(c.regexes) > 100_000 {
		c.regexes = map[string]span{}
	}
	c.regexes[pattern] = found
	return found
}

// tree says which shard a request is for. It divides hosts and paths, each in the
// order of their bytes, so that every request is for exactly one shard, whatever
// its host and path are.
type tree struct {
	root   *branch
	leaves int
	// id changes with what the tree says. Names of shards hold it: those of two
	// trees are apart.
	id string
}

// branch is a division, or a leaf.
type branch struct {
	// boundary is what the right side begins with, "" for a leaf.
	boundary string
	// byHost divides hosts, not paths.
	byHost      bool
	left, right *branch
	leaf        int
}

// item is what is to be divided: a route, or a virtual host with all its paths.
type item struct{ host, path span }

// plant makes the tree for items; name is the chain's.
func plant(name string, items []item, size int) *tree {
	t := &tree{}
	t.root = t.grow(items, max(size, len(items)/(maxShards/2)))
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s", name, (&writer{}).expression(t.root, "", ""))
	t.id = hex.EncodeToString(sum.Sum(nil)[:4])
	return t
}

func (t *tree) grow(items []item, size int) *branch {
	if len(items) > size && t.leaves < maxShards-1 {
		if best, ok := divide(items); ok {
			left, right := best.sides(items)
			best.left = t.grow(left, size)
			best.right = t.grow(right, size)
			return &best
		}
	}
	leaf := &branch{leaf: t.leaves}
	t.leaves++
	return leaf
}

// divide finds what divides items best. What is on both sides of a boundary is
// there twice, so that not all items can be divided to some use.
func divide(items []item) (best branch, ok bool) {
	least := len(items) - len(items)/4
	for _, byHost := range []bool{false, true} {
		for _, boundary := range boundaries(items, byHost) {
			candidate := branch{boundary: boundary, byHost: byHost}
			left, right := candidate.counts(items)
			if most := max(left, right); left > 0 && right > 0 && most < least {
				best, least, ok = candidate, most, true
			}
		}
	}
	return best, ok
}

// boundaries are texts by which about as many items begin on one side as on the
// other, so far as they can be written into an expression.
func boundaries(items []item, byHost bool) []string {
	var lows []string
	for i := range items {
		if at := items[i].of(byHost); !at.isAll() {
			lows = append(lows, at.low)
		}
	}
	slices.Sort(lows)
	var found []string
	add := func(at int) bool {
		if lows[at-1] == lows[at] {
			return false
		}
		text := between(lows[at-1], lows[at])
		if !isPlain(text, byHost) {
			return false
		}
		if !slices.Contains(found, text) {
			found = append(found, text)
		}
		return true
	}
	for eighth := 1; eighth < 8; eighth++ {
		middle := len(lows) * eighth / 8
		for at := middle; at > 0 && at < len(lows) && !add(at); at++ {
		}
		for at := middle - 1; at > 0 && at < len(lows) && !add(at); at-- {
		}
	}
	return found
}

// between is the shortest text that comes after a, up to b.
func between(a, b string) string {
	for i := range len(b) {
		if i >= len(a) || a[i] != b[i] {
			return b[:i+1]
		}
	}
	return b
}

// isPlain reports whether a text may stand in an expression within a format
// string without being escaped in either, and in a character class.
func isPlain(text string, host bool) bool {
	signs := "-."
	if !host {
		signs = "-./_~ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	}
	for i := range len(text) {
		c := text[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte(signs, c) < 0 {
			return false
		}
	}
	return text != "" && len(text) <= maxBoundary
}

func (i *item) of(byHost bool) span {
	if byHost {
		return i.host
	}
	return i.path
}

func (b *branch) counts(items []item) (left, right int) {
	for i := range items {
		at := items[i].of(b.byHost)
		if at.before(b.boundary) {
			left++
		}
		if at.after(b.boundary) {
			right++
		}
	}
	return left, right
}

func (b *branch) sides(items []item) (left, right []item) {
	for i := range items {
		at := items[i].of(b.byHost)
		if at.before(b.boundary) {
			left = append(left, items[i])
		}
		if at.after(b.boundary) {
			right = append(right, items[i])
		}
	}
	return left, right
}

// visit calls with every leaf that an item is in.
func (b *branch) visit(i *item, with func(leaf int)) {
	if b.boundary == "" {
		with(b.leaf)
		return
	}
	at := i.of(b.byHost)
	if at.before(b.boundary) {
		b.left.visit(i, with)
	}
	if at.after(b.boundary) {
		b.right.visit(i, with)
	}
}

// maxExpression is the longest text that Envoy takes for the value of a header is
// 16 KiB; some of it is not the expression.
const maxExpression = 15_000

// expressions give the key of a request's shard, one after the other: what is too
// long for one is divided into a first, which finds the part of the tree, and one
// for each part. header is where the key found so far is.
func (t *tree) expressions(header string) []string {
	whole := writer{prefix: t.prefix()}
	if text := whole.expression(t.root, "", ""); len(text) <= maxExpression {
		return []string{text}
	}
	for depth := 2; ; depth++ {
		top := writer{prefix: t.prefix(), depth: depth}
		all, short := []string{top.expression(t.root, "", "")}, true
		value := "request.headers['" + header + "']"
		for i, part := range top.parts {
			text := whole.expression(part.branch, part.low, part.high)
			short = short && len(text) <= maxExpression
			all = append(all, fmt.Sprintf("%s == '%sp%x' ? %s : %s", value, t.prefix(), i, text, value))
		}
		if short || depth == 8 { // With 256 shards of boundaries within bounds it is.
			return all
		}
	}
}

// writer writes a tree in CEL.
type writer struct {
	// prefix begins all keys.
	prefix string
	// depth is how many divisions are written, 0 for all of them; parts are what is
	// below.
	depth int
	parts []treePart
}

// treePart is a part of a tree, with the bounds of its hosts.
type treePart struct {
	branch    *branch
	low, high string
}

// expression is a branch whose hosts are from low, and before high. Envoy's CEL
// does not turn hosts into lower case, as choosing a virtual host does, so hosts
// are told apart by regular expressions.
func (w *writer) expression(b *branch, low, high string) string {
	return w.write(b, low, high, 0)
}

func (w *writer) write(b *branch, low, high string, depth int) string {
	if b.boundary == "" {
		return fmt.Sprintf("'%s%x'", w.prefix, b.leaf)
	}
	if w.depth > 0 && depth == w.depth {
		w.parts = append(w.parts, treePart{b, low, high})
		return fmt.Sprintf("'%sp%x'", w.prefix, len(w.parts)-1)
	}
	if !b.byHost {
		return "(request.url_path < '" + b.boundary + "' ? " + w.write(b.left, low, high, depth+1) + " : " + w.write(b.right, low, high, depth+1) + ")"
	}
	return "(request.host.matches('" + hostsBefore(b.boundary, common(low, high)) + "') ? " +
		w.write(b.left, low, b.boundary, depth+1) + " : " + w.write(b.right, b.boundary, high, depth+1) + ")"
}

// common is how many bytes all texts between two have in common with them.
func common(low, high string) int {
	n := 0
	for n < len(low) && n < len(high) && low[n] == high[n] {
		n++
	}
	return n
}

// hostsBefore is a regular expression of the hosts that, in lower case, come
// before a boundary: at the first byte that differs, not before skip, there is a
// lesser one, or nothing. It knows what names of virtual hosts are made of; it
// does not matter where other hosts belong, for which all shards have the same
// to say.
func hostsBefore(boundary string, skip int) string {
	var out strings.Builder
	out.WriteString("(?i)^")
	skip = min(skip, len(boundary)-1)
	if skip > 0 {
		fmt.Fprintf(&out, ".{%d}", skip)
	}
	out.WriteString("(?:$|:") // the end, or a port
	for i := skip; i < len(boundary); i++ {
		if class := lesser(boundary[i]); class != "" {
			out.WriteString("|" + class)
		}
		if i < len(boundary)-1 {
			out.WriteString("|[" + string(boundary[i]) + "](?:$|:")
		}
	}
	out.WriteString(strings.Repeat(")", len(boundary)-skip))
	return out.String()
}

// lesser is a character class of what comes before c in names, "" for nothing.
func lesser(c byte) string {
	switch {
	case c == '-':
		return ""
	case c == '.':
		return "[-]"
	case c == '0':
		return "[-.]"
	case c <= '9':
		return fmt.Sprintf("[-.0-%c]", c-1)
	case c == 'a':
		return "[-.0-9]"
	default:
		return fmt.Sprintf("[-.0-9a-%c]", c-1)
	}
}
