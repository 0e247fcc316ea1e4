package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Events of the log's own, which are records of it.
const (
	// EventOpened is written when a process begins to write.
	EventOpened = "AUDIT_OPENED"
	// EventRecovered says that the end of the log was unfinished and was cut off.
	// Nobody was told that what was cut off is in the log.
	EventRecovered = "AUDIT_RECOVERED"
)

// Event is a record of the log's own.
type Event struct {
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
	// Dropped is how many bytes were cut off, SHA256 their hash in hex, and Kept
	// the file beside the segments that has them.
	Dropped int    `json:"droppedBytes,omitempty"`
	SHA256  string `json:"droppedSha256,omitempty"`
	Kept    string `json:"keptIn,omitempty"`
}

// reopen reads where the log stands and makes it ready to be written, or says in
// out.broken why it isn't.
func (l *Log) reopen() {
	l.closeFile()
	looked, scarce := l.out.looked, l.out.scarce
	l.out = writing{looked: looked, scarce: scarce}
	now := l.options.Clock()
	dropped, err := l.restore(now)
	if err == nil {
		err = l.announce(now, dropped)
	}
	if err != nil {
		err = l.fail(err)
	}
	l.size.Store(l.out.size())
	l.options.Events.AuditSize(l.size.Load())
	l.healthy.Store(err == nil)
	l.options.Events.AuditHealthy(err == nil)
	if err != nil {
		l.options.Logger.Error("audit log cannot be opened; requests that need a record are refused", "code", "WEIR5301", "dir", l.config.Dir, "error", err)
	}
}

func (w *writing) size() int64 {
	if w.tree == nil {
		return 0
	}
	return w.tree.size
}

// announce writes the event of the opening.
func (l *Log) announce(now time.Time, dropped *Event) error {
	event := Event{Event: EventOpened}
	if dropped != nil {
		event = *dropped
		l.options.Logger.Warn("the audit log's unfinished end was cut off", "code", "WEIR5303", "dir", l.config.Dir, "bytes", event.Dropped, "kept_in", event.Kept)
	}
	event.Time = now.UTC()
	record, err := json.Marshal(event)
	if err != nil {
		return err
	}
	return l.write([]entry{{record: record}})
}

// restore finds the end of the log.
func (l *Log) restore(now time.Time) (*Event, error) {
	all, err := segments(l.config.Dir)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		if err := l.notShorter(0); err != nil {
			return nil, err
		}
		l.out.tree = newTree()
		return nil, l.begin(now)
	}
	newest := all[len(all)-1]
	content, err := os.ReadFile(newest.path)
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(content, '\n') < 0 && len(all) > 1 {
		// It was being begun; what it continues is whole.
		if err := os.Remove(newest.path); err != nil {
			return nil, err
		}
		return l.restore(now)
	}
	if bytes.IndexByte(content, '\n') < 0 {
		l.out.tree = newTree()
		return nil, l.begin(now)
	}
	return l.restoreFrom(newest, content, now)
}

// restoreFrom takes the newest segment up as it is on disk.
func (l *Log) restoreFrom(newest segment, content []byte, now time.Time) (*Event, error) {
	s := scanner{verifiers: note.VerifierList(l.options.Key.verifier), origin: l.options.Key.Name()}
	good, err := s.scan(newest, content)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; verify it, move the folder's files away, and a new log begins", ErrDamaged, filepath.Base(newest.path), err)
	}
	if err := l.notShorter(s.tree.size); err != nil {
		return nil, err
	}
	info, err := os.Stat(newest.path)
	if err != nil {
		return nil, err
	}
	out := &l.out
	if out.file, err = l.options.files.Append(newest.path); err != nil {
		return nil, err
	}
	out.tree, out.path, out.offset, out.signed = s.tree, newest.path, int64(good), s.signed
	out.began = info.ModTime()
	if out.began.After(now) {
		out.began = now
	}
	torn := content[good:]
	if len(torn) == 0 {
		return nil, nil
	}
	sum := sha256.Sum256(torn)
	event := &Event{Event: EventRecovered, Dropped: len(torn), SHA256: hex.EncodeToString(sum[:])}
	event.Kept = fmt.Sprintf("torn-%d-%s", s.tree.size, event.SHA256[:12])
	if err := os.WriteFile(filepath.Join(l.config.Dir, event.Kept), torn, 0o600); err != nil {
		return nil, err
	}
	if err := out.file.Truncate(out.offset); err != nil {
		return nil, err
	}
	return event, out.file.Sync()
}

// notShorter compares with the checkpoint beside the segments, which is younger
// than everything that it covers.
func (l *Log) notShorter(size int64) error {
	content, err := os.ReadFile(filepath.Join(l.config.Dir, checkpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	saved, err := openCheckpoint(string(content), note.VerifierList(l.options.Key.verifier))
	if err != nil {
		return fmt.Errorf("%w: %s: %w; where the key was replaced, move the folder's files away and a new log begins", ErrDamaged, checkpointFile, err)
	}
	if saved.Size > size {
		return fmt.Errorf("%w: it has %d records, and had %d when its newest checkpoint was signed", ErrDamaged, size, saved.Size)
	}
	return nil
}

// scanner reads one segment from its beginning, for taking it up again.
type scanner struct {
	verifiers note.Verifiers
	origin    string
	tree      *tree
	signed    int64
}

// scan reads up to the first line that isn't right, and returns where that is.
// It is an error when something signed comes after it, or when a signature says
// otherwise: that is no crash.
func (s *scanner) scan(from segment, content []byte) (good int, err error) {
	end := bytes.IndexByte(content, '\n')
	if err := s.header(from, content[:end]); err != nil {
		return 0, err
	}
	good = end + 1
	for good < len(content) {
		end := bytes.IndexByte(content[good:], '\n')
		if end < 0 {
			break
		}
		ok, err := s.line(content[good : good+end])
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		good += end + 1
	}
	for line := range bytes.Lines(content[good:]) {
		if signed, ok := parseCheckpointLine(bytes.TrimRight(line, "\n")); ok {
			if c, err := openCheckpoint(signed, s.verifiers); err == nil {
				return 0, fmt.Errorf("the record numbered %d is not as it was written, though a checkpoint of %d records signs it", s.tree.size, c.Size)
			}
		}
	}
	return good, nil
}

func (s *scanner) header(from segment, line []byte) error {
	h, err := parseHeader(line)
	if err != nil {
		return err
	}
	if h.Origin != s.origin || h.First != from.first {
		return fmt.Errorf("its first line is of %q from record %d, and not of %q from record %d", h.Origin, h.First, s.origin, from.first)
	}
	if s.tree, err = treeOf(h); err != nil {
		return err
	}
	if h.First == 0 {
		return nil
	}
	s.signed = h.First
	return s.signs(h.Checkpoint)
}

// signs checks a note against the tree as it stands.
func (s *scanner) signs(signed string) error {
	c, err := openCheckpoint(signed, s.verifiers)
	if err != nil {
		return err
	}
	root, err := s.tree.root()
	if err != nil {
		return err
	}
	if c.Origin != s.origin || c.Size != s.tree.size || c.Root != root {
		return fmt.Errorf("the checkpoint of %d records is not one of these records", c.Size)
	}
	return nil
}

// line takes the next line up; ok is false when it isn't what belongs there.
func (s *scanner) line(line []byte) (ok bool, err error) {
	if signed, is := parseCheckpointLine(line); is {
		if err := s.signs(signed); err != nil {
			return false, err
		}
		s.signed = s.tree.size
		return true, nil
	}
	record, err := parseRecord(line)
	if err != nil || record.seq != s.tree.size || record.previous != s.tree.last {
		return false, nil //nolint:nilerr // The caller tells a crash from an edit.
	}
	return true, s.tree.add(line)
}

func parseHeader(line []byte) (h header, err error) {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if !bytes.HasPrefix(line, []byte(headerPrefix)) || decoder.Decode(&h) != nil {
		return h, errors.New("its first line is not a segment's")
	}
	if h.Version != formatVersion {
		return h, fmt.Errorf("it is of version %d; this is version %d", h.Version, formatVersion)
	}
	return h, nil
}

func parseCheckpointLine(line []byte) (signed string, ok bool) {
	var parsed checkpointLine
	if !bytes.HasPrefix(line, []byte(checkpointPrefix)) || json.Unmarshal(line, &parsed) != nil {
		return "", false
	}
	return parsed.Checkpoint, strings.Contains(parsed.Checkpoint, "\n")
}
