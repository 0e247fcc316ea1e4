package process

import (
	"errors"
	"syscall"
	"time"
)

// ID names one process for good: a pid alone may be reused after a process
// ended, a pid with its start time is not.
type ID struct {
	PID int `json:"pid"`
	// StartTime is in the kernel's own unit since boot; 0 when not known.
	StartTime uint64 `json:"startTime"`
}

// Identify names the running process pid.
func Identify(pid int) ID {
	start, err := startTime(pid)
	if err != nil {
		return ID{PID: pid}
	}
	return ID{PID: pid, StartTime: start}
}

// Alive reports whether exactly this process still runs; a zombie does not.
func (id ID) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	start, err := startTime(id.PID)
	if errors.Is(err, errUnsupported) {
		return syscall.Kill(id.PID, 0) == nil
	}
	return err == nil && (id.StartTime == 0 || start == id.StartTime)
}

// Signal sends a signal if exactly this process still runs.
func (id ID) Signal(signal syscall.Signal) error {
	if !id.Alive() {
		return syscall.ESRCH
	}
	return syscall.Kill(id.PID, signal)
}

// pollEvery is how often AwaitEnd looks; the kernel offers no event for the end
// of a process that is not a child on every platform.
const pollEvery = 20 * time.Millisecond

// AwaitEnd waits until the process has ended, at most for limit, and reports
// whether it did.
func (id ID) AwaitEnd(limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for id.Alive() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pollEvery)
	}
	return true
}

// Holder is a process that listens on a port.
type Holder struct {
	PID  int
	Name string
}

var errUnsupported = errors.New("not known on this platform")
