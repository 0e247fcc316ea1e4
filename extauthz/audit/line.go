package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxRecordBytes bounds one record.
const MaxRecordBytes = 64 << 10

// maxLineBytes bounds any line of a segment.
const maxLineBytes = MaxRecordBytes + 64<<10

// formatVersion is that of a segment.
const formatVersion = 1

// header is the first line of a segment: where in the log it begins, and what
// came before, so that a segment can be verified when those before it are gone.
type header struct {
	Version int    `json:"weirAudit"`
	Origin  string `json:"origin"`
	// First is the number of the first record.
	First int64 `json:"first"`
	// Previous is the hash of the record before it; unset for the first of all.
	Previous string `json:"previous,omitempty"`
	// Edge are the hashes that the tree of First records consists of, the largest
	// subtree first.
	Edge []string `json:"edge,omitempty"`
	// Checkpoint is signed, of size First; empty for the first segment of all.
	Checkpoint string `json:"checkpoint,omitempty"`
}

const (
	recordPrefix     = `{"seq":`
	checkpointPrefix = `{"checkpoint":`
	headerPrefix     = `{"weirAudit":`
)

// appendRecord writes a record's line without its end.
func appendRecord(line []byte, seq int64, previous tlog.Hash, record []byte) []byte {
	line = append(line, recordPrefix...)
	line = strconv.AppendInt(line, seq, 10)
	line = append(line, `,"prev":"`...)
	line = base64.StdEncoding.AppendEncode(line, previous[:])
	line = append(line, `","record":`...)
	line = append(line, record...)
	return append(line, '}')
}

// recordLine is a record's line as read.
type recordLine struct {
	seq      int64
	previous tlog.Hash
	record   []byte // within the line
}

// parseRecord reads a line, without its end, and takes no other spelling than
// appendRecord's.
func parseRecord(line []byte) (recordLine, error) {
	malformed := errors.New("is not a record's line")
	rest, ok := bytes.CutPrefix(line, []byte(recordPrefix))
	if !ok {
		return recordLine{}, malformed
	}
	number, rest, ok := bytes.Cut(rest, []byte(`,"prev":"`))
	if !ok {
		return recordLine{}, malformed
	}
	seq, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil || seq < 0 || strconv.FormatInt(seq, 10) != string(number) {
		return recordLine{}, malformed
	}
	text, rest, ok := bytes.Cut(rest, []byte(`","record":`))
	if !ok {
		return recordLine{}, malformed
	}
	previous, err := parseHash(string(text))
	if err != nil {
		return recordLine{}, malformed
	}
	record, ok := bytes.CutSuffix(rest, []byte("}"))
	if !ok || !json.Valid(record) {
		return recordLine{}, errors.New("its record is not JSON")
	}
	return recordLine{seq, previous, record}, nil
}

func parseHash(text string) (hash tlog.Hash, err error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != len(hash) {
		return hash, fmt.Errorf("%q is not a hash", text)
	}
	copy(hash[:], raw)
	return hash, nil
}

func hashText(hash tlog.Hash) string { return base64.StdEncoding.EncodeToString(hash[:]) }

// checkpointLine holds a signed note.
type checkpointLine struct {
	Checkpoint string `json:"checkpoint"`
}

// Checkpoint is what is signed: how much of which log there is, and the root
// of its tree.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

// text is the note's text (C2SP tlog-checkpoint).
func (c Checkpoint) text() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + hashText(c.Root) + "\n"
}

func parseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] == "" {
		return Checkpoint{}, errors.New("is not a checkpoint of three lines: origin, size and root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("its size %q is not a number", lines[1])
	}
	root, err := parseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("its root: %w", err)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root}, nil
}
