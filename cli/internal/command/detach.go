package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"weir.dev/cli/envoy"
	"weir.dev/cli/internal/logs"
	"weir.dev/cli/internal/stack"
	"weir.dev/cli/internal/term"
	"weir.dev/cli/state"
	"weir.dev/cli/supervisor"
)

// report is one line from a detached supervisor to the weir that started it.
type report struct {
	Waiting string `json:"waiting,omitempty"`
	Ready   bool   `json:"ready,omitempty"`
	Error   string `json:"error,omitempty"`
	// Component is the one whose log explains the error.
	Component string `json:"component,omitempty"`
}

// reportFD is the first descriptor after the standard ones (exec.Cmd.ExtraFiles).
const reportFD = 3

// upDetached starts a supervisor in a session of its own and returns when it is
// ready, or tells why it is not.
func (a *App) upDetached(ctx context.Context, dir state.Dir, policyDir string, found envoy.Found, o upOptions, progress *term.Progress) error {
	logFile, err := os.OpenFile(logs.Path(dir.Logs(), supervisorName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of the supervisor: %w", err)
	}
	defer logFile.Close()
	reports, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reports.Close()
	arguments := append([]string{
		"up", "--state-dir", dir.Root(), "--dir", policyDir, "--port-base", strconv.Itoa(o.portBase),
		"--timeout", o.timeout.String(), "--report-fd", strconv.Itoa(reportFD), "--zone", o.zone,
	}, o.arguments()...)
	command := exec.Command(a.Executable, arguments...) //nolint:gosec,noctx // Itself, and it outlives the context.
	command.Env = append(append([]string{}, a.Env...), "ENVOY_BIN="+found.Path)
	command.Stdout, command.Stderr = logFile, logFile
	command.ExtraFiles = []*os.File{write}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	command.Dir = "/"
	err = command.Start()
	_ = write.Close()
	if err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = command.Process.Signal(syscall.SIGTERM) })
	defer stop()
	last := followReports(reports, progress)
	if last.Ready {
		record, err := dir.ReadRecord()
		if err != nil {
			return err
		}
		progress.Set("")
		if err := command.Process.Release(); err != nil {
			return err
		}
		if err := a.printReady(ctx, dir, record); err != nil {
			return err
		}
		fmt.Fprintf(a.Stdout, "It runs in the background; %s down stops it.\n", a.self())
		return nil
	}
	_ = command.Wait()
	progress.Set("")
	switch {
	case ctx.Err() != nil:
		return errors.New("stopped before it was ready")
	case last.Error == "":
		a.printLastLines(dir, supervisorName, progress.Println)
		return errors.New("the supervisor ended without a word")
	case last.Component != "":
		a.printLastLines(dir, last.Component, progress.Println)
	}
	return errors.New(last.Error)
}

// followReports returns the one that settles it, or the zero value at the end.
func followReports(from io.Reader, progress *term.Progress) report {
	for lines := bufio.NewScanner(from); lines.Scan(); {
		var r report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		if r.Ready || r.Error != "" {
			return r
		}
		progress.Set(r.Waiting)
	}
	return report{}
}

// upReporting is the detached supervisor.
func (a *App) upReporting(ctx context.Context, dir state.Dir, policyDir string, o upOptions) error {
	syscall.CloseOnExec(o.reportFD) // The components must not hold it open.
	pipe := os.NewFile(uintptr(o.reportFD), "report")
	if pipe == nil {
		return usageError{errors.New("--report-fd is for weir itself")}
	}
	defer pipe.Close()
	tell := func(r report) { _ = json.NewEncoder(pipe).Encode(r) } // The reader may be gone.
	err := a.supervise(ctx, dir, policyDir, o, tell, pipe)
	if err != nil {
		failure := report{Error: err.Error()}
		var failed *supervisor.StartError
		if errors.As(err, &failed) {
			failure.Component = failed.Name
		}
		tell(failure)
		return silentError{}
	}
	return nil
}

func (a *App) supervise(ctx context.Context, dir state.Dir, policyDir string, o upOptions, tell func(report), pipe io.Closer) error {
	if err := dir.Prepare(); err != nil {
		return err
	}
	logFile, err := logs.OpenRotating(logs.Path(dir.Logs(), supervisorName), logs.DefaultMaxBytes)
	if err != nil {
		return err
	}
	defer logFile.Close() //nolint:errcheck // Nothing is buffered.
	options := a.stackOptions(dir, policyDir, a.getenv("ENVOY_BIN"), o)
	options.Logger = slog.New(slog.NewJSONHandler(logFile, nil))
	waiting := ""
	options.Progress = func(record state.Record) {
		if now := waitingFor(record); now != waiting && !record.Ready {
			waiting = now
			tell(report{Waiting: now})
		}
	}
	options.Ready = func(state.Record) {
		tell(report{Ready: true})
		_ = pipe.Close()
	}
	err = stack.Run(ctx, a.kill, options)
	if errors.Is(err, stack.ErrRunning) {
		return fmt.Errorf("another weir has just been started in %s", dir.Root())
	}
	return err
}
