package command

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weir.dev/cli/internal/stack"
	"weir.dev/cli/internal/term"
	"weir.dev/cli/state"
)

// downTimeout is the supervisor's own bound on a stop, and some.
const downTimeout = 20 * time.Second

// lockWait is for the kernel to take the lock from a process that has ended.
const lockWait = 5 * time.Second

func (a *App) downCommand() *cobra.Command {
	c := &cobra.Command{Use: "down", Short: "Stop everything, in order", Args: arguments(0, 0)}
	purge := c.Flags().Bool("purge", false, "also remove the state folder: data, certificates, credentials, logs")
	c.RunE = func(*cobra.Command, []string) error {
		dir, err := a.state()
		if err != nil {
			return err
		}
		stopped, err := a.stop(dir)
		if err != nil {
			return err
		}
		if stopped {
			fmt.Fprintln(a.Stdout, "weir has stopped")
		} else {
			fmt.Fprintln(a.Stdout, "weir is not running")
		}
		if *purge {
			if err := dir.Purge(); err != nil {
				return err
			}
			fmt.Fprintf(a.Stdout, "%s is removed\n", dir.Root())
		}
		return nil
	}
	return c
}

// stop ends the supervisor of dir, and what one that crashed left. It reports
// whether one was running.
func (a *App) stop(dir state.Dir) (bool, error) {
	locked, err := dir.Locked()
	if err != nil {
		return false, err
	}
	progress := term.NewProgress(a.Stderr)
	defer progress.Stop()
	if locked {
		progress.Set("stopping")
		if err := endSupervisor(dir); err != nil {
			return false, err
		}
	}
	if !dir.IsState() {
		return locked, nil
	}
	lock, err := dir.LockWithin(lockWait)
	if err != nil {
		return false, fmt.Errorf("state folder: %w", err)
	}
	defer lock.Unlock() //nolint:errcheck // Closing a lock file cannot lose anything.
	stack.EndStale(dir, slog.New(slog.DiscardHandler))
	return locked, nil
}

func endSupervisor(dir state.Dir) error {
	record, err := awaitRecord(dir)
	if err != nil {
		return err
	}
	supervisor := record.Supervisor
	if err := supervisor.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stopping process %d: %w", supervisor.PID, err)
	}
	if supervisor.AwaitEnd(downTimeout) {
		return nil
	}
	if err := supervisor.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("process %d did not end: %w", supervisor.PID, err)
	}
	supervisor.AwaitEnd(downTimeout)
	return nil
}

// awaitRecord reads the record of a supervisor that may just be starting.
func awaitRecord(dir state.Dir) (state.Record, error) {
	const every, times = 50 * time.Millisecond, 100
	for range times {
		record, err := dir.ReadRecord()
		if !errors.Is(err, os.ErrNotExist) {
			return record, err
		}
		if locked, err := dir.Locked(); err != nil || !locked {
			return state.Record{}, err
		}
		time.Sleep(every)
	}
	return state.Record{}, fmt.Errorf("a weir holds %s and does not say which process it is; try again", dir.Root())
}
