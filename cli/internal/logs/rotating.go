package logs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// DefaultMaxBytes bounds one log file; with its predecessor, a component's logs
// take at most about twice that.
const DefaultMaxBytes = 8 << 20

// MaxLineBytes bounds a line that is read or passed on; longer ones are cut.
const MaxLineBytes = 64 << 10

// previousSuffix is added to the name of the file before the current one.
const previousSuffix = ".1"

// Path is the log file of a component in dir.
func Path(dir, name string) string { return filepath.Join(dir, name+".log") }

// Rotating is a log file that moves to NAME.1 when it is full. Lines are not
// torn unless one alone is larger than the bound. Safe for concurrent use.
type Rotating struct {
	path string
	max  int64

	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenRotating appends to the file at path, mode 0600.
func OpenRotating(path string, maxBytes int64) (*Rotating, error) {
	r := &Rotating{path: path, max: maxBytes}
	return r, r.open()
}

func (r *Rotating) open() error {
	file, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("log file: %w", err)
	}
	r.file, r.size = file, info.Size()
	return nil
}

// Write appends p. It always reports success: a full disk must not stop the
// component that logs.
func (r *Rotating) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil && r.open() != nil {
		return len(p), nil
	}
	n, _ := r.file.Write(p)
	r.size += int64(n)
	if full := r.size >= r.max && bytes.HasSuffix(p, []byte("\n")); full || r.size >= 2*r.max {
		_ = r.file.Close()
		r.file = nil
		_ = os.Rename(r.path, r.path+previousSuffix)
		_ = r.open()
	}
	return len(p), nil
}

// Close closes the file.
func (r *Rotating) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// Lines is a writer that passes on whole lines, without their end.
type Lines struct {
	// Emit gets a line that is valid only during the call.
	Emit func(line []byte)

	mu      sync.Mutex
	partial []byte
}

// Write passes on every line that p completes.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	written := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			l.keep(p)
			return written, nil
		}
		l.keep(p[:end])
		l.Emit(l.partial)
		l.partial = l.partial[:0]
		p = p[end+1:]
	}
}

func (l *Lines) keep(p []byte) {
	l.partial = append(l.partial, p[:min(len(p), MaxLineBytes-len(l.partial))]...)
}
