package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const lockName = "weir.lock"

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("held by another process")

// Lock is an exclusive advisory lock on a file. The kernel lets go of it when
// the process ends in whatever way, so a crash leaves nothing to clean up.
type Lock struct{ file *os.File }

// LockFile takes the lock at path without waiting; ErrLocked when it is taken.
func LockFile(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Lock{file: file}, nil
}

// Unlock lets go. The file stays: removing it would let two processes hold
// "the" lock on two different files.
func (l *Lock) Unlock() error { return l.file.Close() }

// lockEvery is how often a wanted lock is tried.
const lockEvery = 20 * time.Millisecond

// LockWithin is Lock that waits up to limit: a process that has just ended may
// hold its lock a moment longer.
func (d Dir) LockWithin(limit time.Duration) (*Lock, error) {
	deadline := time.Now().Add(limit)
	for {
		lock, err := d.Lock()
		if !errors.Is(err, ErrLocked) || time.Now().After(deadline) {
			return lock, err
		}
		time.Sleep(lockEvery)
	}
}

// Lock takes the folder for a supervisor, without waiting.
func (d Dir) Lock() (*Lock, error) { return LockFile(d.Path(lockName)) }

// Locked reports whether a supervisor holds the folder now.
func (d Dir) Locked() (bool, error) {
	if _, err := os.Stat(d.Path(lockName)); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	held, err := d.Lock()
	if errors.Is(err, ErrLocked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, held.Unlock()
}
