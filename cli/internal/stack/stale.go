package stack

import (
	"syscall"
	"time"
)

// What is left of a crashed run gets no time to drain: nothing feeds it any
// more, and its ports are needed.
const (
	killSignal = syscall.SIGKILL
	staleWait  = 5 * time.Second
	// lockWait is for the kernel to take the lock from one that has just ended.
	lockWait = time.Second
)
