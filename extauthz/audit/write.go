package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"weir.dev/kit/atomicfile"
)

// write puts a batch on disk, whole or not at all, with a checkpoint where one is
// due. An empty batch looks after checkpoints, age and space.
func (l *Log) write(batch []entry) error {
	out := &l.out
	now := l.options.Clock()
	if out.broken != nil {
		if now.Before(out.retry) && now.After(out.retry.Add(-2*retryEvery)) {
			return out.broken
		}
		if l.reopen(); out.broken != nil {
			return out.broken
		}
	}
	if err := l.space(now); err != nil {
		return err
	}
	if err := l.rotate(now); err != nil {
		return l.fail(err)
	}
	next := out.tree.clone()
	out.pending = out.pending[:0]
	for i := range batch {
		from := len(out.pending)
		out.pending = appendRecord(out.pending, next.size, next.last, batch[i].record)
		if err := next.add(out.pending[from:]); err != nil {
			return l.fail(err)
		}
		out.pending = append(out.pending, '\n')
	}
	signed := ""
	if next.size > out.signed && (now.Sub(out.signedAt) >= l.config.CheckpointEvery/2 || now.Before(out.signedAt)) {
		var err error
		if signed, err = l.checkpoint(next); err != nil {
			return l.fail(err)
		}
		if out.pending, err = appendCheckpoint(out.pending, signed); err != nil {
			return l.fail(err)
		}
	}
	if len(out.pending) == 0 {
		return nil
	}
	if err := l.put(out.pending); err != nil {
		return err
	}
	out.tree = next
	if signed != "" {
		out.signed, out.signedAt = next.size, now
		l.publish(signed)
	}
	if l.size.Swap(next.size) != next.size {
		l.options.Events.AuditSize(next.size)
	}
	return nil
}

// put appends bytes and syncs. What was written in part is cut off again; after a
// failed sync nobody knows what is on disk, so the log is read anew.
func (l *Log) put(content []byte) error {
	out := &l.out
	if _, err := out.file.Write(content); err != nil {
		if undo := out.file.Truncate(out.offset); undo != nil {
			return l.fail(errors.Join(err, undo))
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := out.file.Sync(); err != nil {
		return l.fail(err)
	}
	out.offset += int64(len(content))
	return nil
}

// fail gives the file up until it is opened anew.
func (l *Log) fail(err error) error {
	l.closeFile()
	l.out.broken = fmt.Errorf("%w: %w", ErrUnavailable, err)
	l.out.retry = l.options.Clock().Add(retryEvery)
	return l.out.broken
}

func (l *Log) closeFile() {
	if l.out.file != nil {
		_ = l.out.file.Close()
		l.out.file = nil
	}
}

// space warns before the disk is full, and stops before it is.
func (l *Log) space(now time.Time) error {
	out := &l.out
	if since := now.Sub(out.looked); since < lookEvery && since >= 0 && out.broken == nil && !l.tooLittle() {
		return nil
	}
	free, err := l.options.files.Free(l.config.Dir)
	if err != nil {
		return fmt.Errorf("%w: free space: %w", ErrUnavailable, err)
	}
	out.looked = now
	l.options.Events.AuditFree(free)
	if scarce := free < l.config.WarnFreeBytes; scarce != out.scarce {
		out.scarce = scarce
		if scarce {
			l.options.Logger.Warn("little space is left for the audit log; when it is full, requests that need a record are refused",
				"code", "WEIR5302", "dir", l.config.Dir, "free_bytes", free, "stops_at_bytes", l.config.MinFreeBytes)
		}
	}
	if free < l.config.MinFreeBytes {
		out.looked = time.Time{}
		return fmt.Errorf("%w: %d bytes are free, and %d are kept free (minFreeBytes)", ErrUnavailable, free, l.config.MinFreeBytes)
	}
	return nil
}

// tooLittle reports whether the space must be looked at again at once.
func (l *Log) tooLittle() bool { return l.out.looked.IsZero() }

func (l *Log) checkpoint(t *tree) (string, error) {
	root, err := t.root()
	if err != nil {
		return "", err
	}
	return l.options.Key.sign(Checkpoint{Origin: l.options.Key.Name(), Size: t.size, Root: root})
}

func appendCheckpoint(to []byte, signed string) ([]byte, error) {
	line, err := json.Marshal(checkpointLine{signed})
	if err != nil {
		return to, err
	}
	return append(append(to, line...), '\n'), nil
}

// publish keeps the newest checkpoint in a file of its own. Without it only
// truncation right after a crash is harder to see, so a failure is logged.
func (l *Log) publish(signed string) {
	if err := atomicfile.Write(filepath.Join(l.config.Dir, checkpointFile), []byte(signed), 0o644); err != nil {
		l.options.Logger.Warn("audit checkpoint file cannot be written", "error", err)
	}
}

// rotate begins a new segment when the one in use is full or old.
func (l *Log) rotate(now time.Time) error {
	out := &l.out
	full := out.offset >= l.config.SegmentBytes
	old := now.Sub(out.began) >= l.config.SegmentAge && out.tree.size > 0
	if !full && !old {
		return nil
	}
	if filepath.Base(out.path) == segmentName(out.tree.size) {
		out.began = now // It has no record yet.
		return nil
	}
	if out.signed < out.tree.size {
		signed, err := l.checkpoint(out.tree)
		if err != nil {
			return err
		}
		line, err := appendCheckpoint(nil, signed)
		if err != nil {
			return err
		}
		if err := l.put(line); err != nil {
			return err
		}
		out.signed, out.signedAt = out.tree.size, now
		l.publish(signed)
	}
	l.closeFile()
	if err := l.begin(now); err != nil {
		return err
	}
	if err := l.prune(); err != nil {
		l.options.Logger.Warn("old audit segments cannot be removed", "error", err)
	}
	return nil
}

// begin makes the segment of the tree's size.
func (l *Log) begin(now time.Time) error {
	out := &l.out
	h := header{Version: formatVersion, Origin: l.options.Key.Name(), First: out.tree.size}
	if h.First > 0 {
		var err error
		if h.Edge, err = out.tree.hashes(); err != nil {
			return err
		}
		if h.Checkpoint, err = l.checkpoint(out.tree); err != nil {
			return err
		}
		h.Previous = hashText(out.tree.last)
	}
	line, err := json.Marshal(h)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	path := filepath.Join(l.config.Dir, segmentName(h.First))
	opened, err := l.options.files.Append(path)
	if err != nil {
		return err
	}
	out.file, out.path, out.offset, out.began = opened, path, 0, now
	if err := opened.Truncate(0); err != nil {
		return err
	}
	if err := l.put(line); err != nil {
		return err
	}
	return syncDir(l.config.Dir)
}
