package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"weir.dev/cli/internal/stack"
	"weir.dev/cli/internal/term"
	"weir.dev/cli/state"
	"weir.dev/cli/supervisor"
)

// statusReport is what status -o json prints; scripts rely on its shape.
type statusReport struct {
	Ready      bool              `json:"ready"`
	Ingress    statusIngress     `json:"ingress"`
	Components []statusComponent `json:"components"`
}

type statusIngress struct {
	HTTP  string   `json:"http"`
	HTTPS []string `json:"https,omitempty"`
}

type statusComponent struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Address  string `json:"address"`
	PID      int    `json:"pid"`
	Restarts int    `json:"restarts"`
}

func (a *App) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show what runs; the exit code is 0 when everything is ready", Args: arguments(0, 0),
	}
	format := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		dir, err := a.state()
		if err != nil {
			return err
		}
		record, running, err := currentRecord(dir)
		if err != nil {
			return err
		}
		report := reportOf(probeAll(c.Context(), record))
		if asJSON {
			err = writeJSON(a.Stdout, report)
		} else if running {
			printTable(a.Stdout, report, record.Notes)
			a.printPolicy(c.Context(), record)
		} else {
			fmt.Fprintf(a.Stdout, "weir is not running; start it with: %s up\n", a.self())
		}
		if err == nil && !report.Ready {
			err = silentError{}
		}
		return err
	}
	return c
}

// currentRecord is the record of the running supervisor; the zero value when
// none runs.
func currentRecord(dir state.Dir) (_ state.Record, running bool, _ error) {
	locked, err := dir.Locked()
	if err != nil || !locked {
		return state.Record{}, false, err
	}
	record, err := dir.ReadRecord()
	if errors.Is(err, os.ErrNotExist) {
		return state.Record{}, true, nil // About to write it, or to end.
	}
	return record, true, err
}

// statusTimeout bounds asking a component.
const statusTimeout = 3 * time.Second

// probeAll asks each component itself: the record is as of the last change.
func probeAll(ctx context.Context, record state.Record) state.Record {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var group sync.WaitGroup
	for i := range record.Components {
		group.Go(func() {
			c := &record.Components[i]
			if c.Process.PID != 0 && !c.Process.Alive() {
				c.State, c.Process.PID = string(supervisor.StateRestarting), 0
			}
			if c.State == string(supervisor.StateReady) && stack.Probe(ctx, c.Probe) != nil {
				c.State = string(supervisor.StateNotReady)
			}
		})
	}
	group.Wait()
	if record.IngressHTTP != "" {
		record.IngressHTTP = stack.IngressURL(ctx, record)
		for i := range record.Components {
			if record.Components[i].Name == stack.Envoy {
				record.Components[i].Address = stack.HostOf(record.IngressHTTP)
			}
		}
	}
	return record
}

func reportOf(record state.Record) statusReport {
	report := statusReport{
		Ready: record.Ready, Ingress: statusIngress{HTTP: record.IngressHTTP, HTTPS: record.IngressHTTPS}, Components: []statusComponent{},
	}
	for _, c := range record.Components {
		report.Components = append(report.Components, statusComponent{
			Name: c.Name, State: c.State, Address: c.Address, PID: c.Process.PID, Restarts: c.Restarts,
		})
		report.Ready = report.Ready && c.State == string(supervisor.StateReady)
	}
	return report
}

func printTable(w io.Writer, report statusReport, notes []string) {
	rows := [][]string{{"COMPONENT", "STATE", "ADDRESS", "PID", "RESTARTS"}}
	for _, c := range report.Components {
		pid := "-"
		if c.PID != 0 {
			pid = strconv.Itoa(c.PID)
		}
		rows = append(rows, []string{c.Name, c.State, c.Address, pid, strconv.Itoa(c.Restarts)})
	}
	term.Table(w, rows)
	for _, note := range notes {
		fmt.Fprintln(w, "note: "+note)
	}
}

// mostProblems is how many problems of the policy status lists.
const mostProblems = 5

// printPolicy says what is wrong with the policy, if anything is.
func (a *App) printPolicy(ctx context.Context, record state.Record) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	policy, err := stack.PolicyStatus(ctx, record)
	if err != nil {
		return // The table shows it.
	}
	if policy.Error != "" {
		fmt.Fprintf(a.Stdout, "policy: the last change is not in force: %s\n", strings.TrimSpace(policy.Error))
	}
	for _, client := range policy.Clients {
		if client.Rejected != nil && policy.Error == "" {
			fmt.Fprintf(a.Stdout, "policy: %s\n", client.Rejected.Error())
		}
	}
	problems := policy.Problems.Errors()
	for i, problem := range problems {
		if i == mostProblems {
			fmt.Fprintf(a.Stdout, "policy: and %d more\n", len(problems)-i)
			break
		}
		fmt.Fprintf(a.Stdout, "policy: %s\n", problem.Error())
	}
}

func writeJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
