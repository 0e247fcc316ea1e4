package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const lockName = "weir.lock"

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("held by another process")

// Lock is an exclusive advisory lock on a file. The kernel lets go of it when
// the process ends in whatever way, so a crash leaves nothing to clean up.
type Lock struct{ file *os.File }

// LockFile takes the lock at path without waiting; ErrLocked when it is taken.
func LockFile(path string) (*Lock, error) { return lock(path, syscall.LOCK_EX|syscall.LOCK_NB) }

// AwaitFile takes the lock at path and waits for it as long as it takes.
func AwaitFile(path string) (*Lock, error) { return lock(path, syscall.LOCK_EX) }

func lock(path string, how int) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), how)
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
