package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Kinds of a Finding.
const (
	FindingEdited    = "edited"
	FindingGap       = "gap"
	FindingReordered = "reordered"
	FindingTruncated = "truncated"
	FindingSignature = "signature"
	FindingFormat    = "format"
)

// maxFindings bounds a report.
const maxFindings = 100

// Finding is one way in which a log is not what was written.
type Finding struct {
	Kind string `json:"kind"`
	File string `json:"file,omitempty"`
	// Line counts from 1; 0 when the finding is about no line.
	Line int `json:"line,omitempty"`
	// Sequence is the number of the record, -1 when the finding is about none.
	Sequence int64  `json:"sequence"`
	Message  string `json:"message"`
}

// Report is what verifying found.
type Report struct {
	Origin string `json:"origin"`
	// First is the number of the oldest record that is kept, and Size how many
	// records there ever were.
	First int64  `json:"first"`
	Size  int64  `json:"size"`
	Root  string `json:"root"`
	Files int    `json:"files"`
	// Checkpoints is how many signatures were verified, those of saved ones too.
	Checkpoints int `json:"checkpoints"`
	// Unsigned is how many of the newest records no checkpoint covers yet.
	Unsigned int64 `json:"unsigned"`
	// Openings and Recoveries are events of the log's own.
	Openings   int       `json:"openings"`
	Recoveries int       `json:"recoveries"`
	Findings   []Finding `json:"findings,omitempty"`
	// MoreFindings is how many more there are.
	MoreFindings int `json:"moreFindings,omitempty"`
	// Notes are worth knowing and no fault.
	Notes []string `json:"notes,omitempty"`
}

// OK reports whether nothing was found.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

// VerifyOptions are what a log is verified against.
type VerifyOptions struct {
	// Keys are public keys in the note format, at least one.
	Keys []string
	// Checkpoints are signed notes that were kept elsewhere: only with one of these
	// is a log's end known to be there.
	Checkpoints []string
}

// Verify reads a whole log in memory that does not grow with it. The error says
// that it couldn't be read; what is wrong with it is in the report.
func Verify(dir string, options VerifyOptions) (*Report, error) {
	if len(options.Keys) == 0 {
		return nil, errors.New("name at least one public key to verify with")
	}
	var list []note.Verifier
	for _, text := range options.Keys {
		verifier, err := note.NewVerifier(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a public key of the note format", text)
		}
		list = append(list, verifier)
	}
	all, err := segments(dir)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: there is no segment of an audit log (%s…%s)", dir, segmentPrefix, segmentSuffix)
	}
	v := &verification{verifiers: note.VerifierList(list...), report: &Report{First: all[0].first, Files: len(all)}}
	for _, text := range options.Checkpoints {
		v.save("saved checkpoint", text)
	}
	if beside, err := os.ReadFile(filepath.Join(dir, checkpointFile)); err == nil {
		v.save(checkpointFile, string(beside))
	}
	for i, s := range all {
		if err := v.segment(s, i == 0, i == len(all)-1); err != nil {
			return nil, err
		}
	}
	return v.finish()
}

// wanted is a saved checkpoint that waits for its size.
type wanted struct {
	from string
	Checkpoint
}

type verification struct {
	verifiers note.Verifiers
	report    *Report
	saved     []wanted
	tree      *tree
	signed    int64
	// missing are numbers that were skipped and may yet come.
	missing []gap
	file    string
	line    int
}

// gap is a run of missing records, and the finding about it.
type gap struct {
	first, end int64
	finding    int
}

func (v *verification) find(kind string, sequence int64, format string, values ...any) {
	if len(v.report.Findings) == maxFindings {
		v.report.MoreFindings++
		return
	}
	v.report.Findings = append(v.report.Findings, Finding{Kind: kind, File: v.file, Line: v.line, Sequence: sequence, Message: fmt.Sprintf(format, values...)})
}

// save takes a checkpoint that the log must reach.
func (v *verification) save(from, text string) {
	c, err := openCheckpoint(text, v.verifiers)
	if err != nil {
		v.find(FindingSignature, -1, "%s: %v", from, err)
		return
	}
	v.report.Checkpoints++
	v.saved = append(v.saved, wanted{from, c})
}

func (v *verification) segment(s segment, first, last bool) error {
	file, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // read only
	v.file, v.line = filepath.Base(s.path), 0
	reader := bufio.NewReaderSize(file, maxLineBytes)
	for {
		line, err := reader.ReadSlice('\n')
		v.line++
		whole := bytes.HasSuffix(line, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\n"))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			v.find(FindingFormat, -1, "the line is longer than any that is written")
			return nil
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case v.line == 1:
			v.header(s, line, first)
		case len(line) == 0 && !whole:
		case !whole && last:
			v.report.Notes = append(v.report.Notes, fmt.Sprintf("%s ends in an unfinished line of %d bytes: it is being written, or a crash left it", v.file, len(line)))
		default:
			v.body(line)
		}
		if err != nil {
			return nil //nolint:nilerr // the end
		}
	}
}

// header compares what a segment says of its beginning with what came before.
func (v *verification) header(s segment, line []byte, first bool) {
	h, err := parseHeader(line)
	if err == nil && h.First != s.first {
		err = fmt.Errorf("it says to begin with record %d, and its name with %d", h.First, s.first)
	}
	var begins *tree
	if err == nil {
		begins, err = treeOf(h)
	}
	if err != nil {
		v.find(FindingFormat, -1, "%v", err)
		if v.tree == nil {
			v.tree = newTree()
		}
		return
	}
	if first {
		v.tree, v.report.Origin = begins, h.Origin
		v.due()
	}
	if h.First > 0 {
		if err := v.signs(h.Checkpoint, begins); err != nil {
			v.find(FindingSignature, -1, "the checkpoint that the segment begins with: %v", err)
		}
	}
	if h.Origin != v.report.Origin {
		v.find(FindingFormat, -1, "it is a segment of %q, and those before it are of %q", h.Origin, v.report.Origin)
	}
	if first {
		return
	}
	if h.First != v.tree.size {
		v.skipped(h.First)
	} else if begins.last != v.tree.last {
		v.find(FindingEdited, h.First-1, "the segment continues another record %d than the one before it ends with", h.First-1)
	}
	v.tree = begins // What is found after this is this segment's own.
}

// skipped notes a gap up to a number, or that records come again.
func (v *verification) skipped(to int64) {
	if to > v.tree.size {
		v.find(FindingGap, v.tree.size, "records %d to %d are missing", v.tree.size, to-1)
		if len(v.report.Findings) <= maxFindings && v.report.MoreFindings == 0 {
			v.missing = append(v.missing, gap{v.tree.size, to, len(v.report.Findings) - 1})
		}
		return
	}
	for _, g := range v.missing {
		if g.first <= to && to < g.end {
			v.report.Findings[g.finding].Kind = FindingReordered
			v.report.Findings[g.finding].Message += "; they stand elsewhere, so the order is another one"
			return
		}
	}
	v.find(FindingReordered, to, "record %d stands where %d belongs", to, v.tree.size)
}

func (v *verification) body(line []byte) {
	if signed, ok := parseCheckpointLine(line); ok {
		if err := v.signs(signed, v.tree); err != nil {
			v.find(FindingSignature, -1, "checkpoint: %v", err)
		}
		return
	}
	record, err := parseRecord(line)
	if err != nil {
		v.find(FindingEdited, v.tree.size, "the line %v", err)
		return
	}
	if record.seq != v.tree.size {
		v.skipped(record.seq)
	} else if record.previous != v.tree.last {
		v.find(FindingEdited, record.seq-1, "record %d is not the one that record %d follows", record.seq-1, record.seq)
	}
	if record.seq > v.tree.size {
		v.tree = newTreeAt(record.seq)
	}
	switch {
	case bytes.HasPrefix(record.record, []byte(`{"event":"`+EventOpened+`"`)):
		v.report.Openings++
	case bytes.HasPrefix(record.record, []byte(`{"event":"`+EventRecovered+`"`)):
		v.report.Recoveries++
	}
	if record.seq < v.tree.size {
		v.tree.last = tlog.RecordHash(line)
		return
	}
	if err := v.tree.add(line); err != nil { // After a gap nothing is known of the tree.
		v.tree.size, v.tree.last = record.seq+1, tlog.RecordHash(line)
	}
	v.due()
}

// newTreeAt is a tree of which nothing but the size is known.
func newTreeAt(size int64) *tree {
	t := newTree()
	t.size = size
	return t
}

// signs checks a signed note against a tree.
func (v *verification) signs(signed string, t *tree) error {
	c, err := openCheckpoint(signed, v.verifiers)
	if err != nil {
		return err
	}
	root, err := t.root()
	switch {
	case c.Origin != v.report.Origin:
		return fmt.Errorf("it is of %q, and the log is %q", c.Origin, v.report.Origin)
	case c.Size != t.size:
		return fmt.Errorf("it signs %d records, and stands after %d", c.Size, t.size)
	case err != nil:
		return errors.New("what it signs cannot be computed, because records are missing before it")
	case c.Root != root:
		return fmt.Errorf("the first %d records are not those that were signed", c.Size)
	}
	v.report.Checkpoints++
	v.signed = c.Size
	return nil
}

// due compares with the saved checkpoints of this size.
func (v *verification) due() {
	for _, w := range v.saved {
		if w.Size != v.tree.size {
			continue
		}
		root, err := v.tree.root()
		if err != nil || root != w.Root || w.Origin != v.report.Origin {
			v.find(FindingEdited, -1, "the first %d records are not those of the %s", w.Size, w.from)
		}
		v.signed = max(v.signed, w.Size)
	}
}

func (v *verification) finish() (*Report, error) {
	r := v.report
	v.file, v.line = "", 0
	for _, w := range v.saved {
		switch {
		case w.Size > v.tree.size:
			v.find(FindingTruncated, v.tree.size, "the log ends with record %d; the %s signs %d records", v.tree.size-1, w.from, w.Size)
		case w.Size < r.First:
			r.Notes = append(r.Notes, fmt.Sprintf("the %s is of %d records, and only those from %d on are kept", w.from, w.Size, r.First))
		}
	}
	r.Size, r.Unsigned = v.tree.size, max(0, v.tree.size-v.signed)
	if root, err := v.tree.root(); err == nil {
		r.Root = hashText(root)
	}
	if !slices.ContainsFunc(v.saved, func(w wanted) bool { return w.from != checkpointFile }) {
		r.Notes = append(r.Notes, "without a checkpoint that was kept elsewhere nobody can tell whether newer records were cut off together with theirs")
	}
	return r, nil
}
