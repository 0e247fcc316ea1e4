package supervisor

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"weir.dev/cli/process"
)

// outputDelay bounds the wait for a grandchild that keeps the output open after
// the child has ended.
const outputDelay = 2 * time.Second

// running is one started process.
type running struct {
	id    process.ID
	ended chan struct{}
	err   error // Set before ended is closed.
}

// start starts the process in a group of its own, so that a terminal's Ctrl-C
// reaches only the supervisor.
//
// On Linux the kernel kills the child when the thread that started it ends
// (PR_SET_PDEATHSIG), and Go ends idle threads as it likes; so one goroutine
// keeps its thread from before the start until after the end.
func start(spec Spec) (*running, error) {
	r := &running{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		command := exec.Command(spec.Path, spec.Args...) //nolint:noctx // Ended in order, by signals.
		command.Env = spec.Env
		command.Stdout, command.Stderr = spec.Output, spec.Output
		command.SysProcAttr = childAttributes()
		command.WaitDelay = outputDelay
		if err := command.Start(); err != nil {
			started <- fmt.Errorf("cannot start %s: %w", spec.Path, err)
			return
		}
		r.id = process.Identify(command.Process.Pid)
		started <- nil
		r.err = command.Wait()
		close(r.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return r, nil
}

// signal signals the whole group unless the child has ended: its number may be
// someone else's by then.
func (r *running) signal(signal syscall.Signal) {
	select {
	case <-r.ended:
	default:
		_ = syscall.Kill(-r.id.PID, signal)
	}
}

// reason says how the ended process ended; never nil.
func (r *running) reason() error {
	<-r.ended
	if r.err != nil {
		return r.err
	}
	return errEnded
}

var errEnded = errors.New("ended by itself with exit status 0")
