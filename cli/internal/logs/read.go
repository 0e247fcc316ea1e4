package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// Tail returns the last n lines of the log at path, oldest first, reaching into
// the file before it when needed. No log is no lines. The offset is where the
// current file ended.
func Tail(path string, n int) (lines []string, offset int64, err error) {
	for _, name := range []string{path + previousSuffix, path} {
		end, err := tailOf(name, n, &lines)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, 0, err
		}
		offset = end
	}
	return lines, offset, nil
}

// tailOf adds the file's lines to into and keeps the last n.
func tailOf(path string, n int, into *[]string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	var offset int64
	reader := bufio.NewReaderSize(file, MaxLineBytes)
	for {
		line, size, err := readLine(reader)
		offset += size
		if size > 0 && err == nil {
			*into = append(*into, line)
			if extra := len(*into) - n; extra > n+1024 { // Trimmed in bulk.
				*into = append([]string(nil), (*into)[extra:]...)
			}
		}
		if errors.Is(err, io.EOF) {
			*into = (*into)[max(0, len(*into)-n):]
			return offset - size, nil // A half-written line is read again later.
		}
		if err != nil {
			return offset, err
		}
	}
}

// readLine reads one line of any length, and keeps MaxLineBytes of it. err is
// io.EOF for a line without an end; size is what was read.
func readLine(reader *bufio.Reader) (line string, size int64, err error) {
	var kept []byte
	for {
		part, err := reader.ReadSlice('\n')
		size += int64(len(part))
		kept = append(kept, part[:min(len(part), MaxLineBytes-len(kept))]...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return string(bytes.TrimRight(kept, "\r\n")), size, err
	}
}

// followEvery is how often a followed file is looked at.
const followEvery = 100 * time.Millisecond

// Follow emits lines written to path after offset until ctx ends, across
// rotations.
func Follow(ctx context.Context, path string, offset int64, emit func(line string)) error {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	var file *os.File
	defer func() { _ = file.Close() }() // Close of nil is an error that nobody needs.
	for {
		if file == nil {
			file, _ = os.Open(path) // Not there yet is fine.
			if file != nil {
				if info, err := file.Stat(); err != nil || info.Size() < offset {
					offset = 0
				}
			}
		}
		if file != nil {
			var err error
			if offset, err = emitFrom(file, offset, emit); err != nil {
				return err
			}
			if replaced(file, path) {
				if _, err = emitFrom(file, offset, emit); err != nil {
					return err
				}
				_ = file.Close()
				file, offset = nil, 0
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func emitFrom(file *os.File, offset int64, emit func(string)) (int64, error) {
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return offset, err
	}
	reader := bufio.NewReaderSize(file, MaxLineBytes)
	for {
		line, size, err := readLine(reader)
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, err
		}
		offset += size
		emit(line)
	}
}

// replaced reports whether path is another file by now.
func replaced(file *os.File, path string) bool {
	held, err := file.Stat()
	if err != nil {
		return true
	}
	current, err := os.Stat(path)
	return err == nil && !os.SameFile(held, current)
}
