package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weir.dev/cli/internal/doctor"
	"weir.dev/cli/internal/stack"
)

type doctorReport struct {
	OK       bool             `json:"ok"`
	Findings []doctor.Finding `json:"findings"`
}

func (a *App) doctorCommand() *cobra.Command {
	c := &cobra.Command{Use: "doctor", Short: "Look for what is wrong, and say how to mend it", Args: arguments(0, 0)}
	format := outputFlag(c)
	dir := c.Flags().String("dir", "", "the policy `folder`, as for up")
	c.RunE = func(c *cobra.Command, _ []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		patient, err := a.patient(*dir)
		if err != nil {
			return err
		}
		patient.Record = probeAll(c.Context(), patient.Record)
		report := doctorReport{OK: true, Findings: doctor.Examine(c.Context(), patient)}
		for _, finding := range report.Findings {
			report.OK = report.OK && finding.Level != doctor.Error
		}
		if asJSON {
			err = writeJSON(a.Stdout, report)
		} else {
			a.printFindings(report.Findings)
		}
		if err == nil && !report.OK {
			err = silentError{}
		}
		return err
	}
	return c
}

func (a *App) patient(policyDir string) (doctor.Patient, error) {
	dir, err := a.state()
	if err != nil {
		return doctor.Patient{}, err
	}
	record, running, err := currentRecord(dir)
	if err != nil {
		return doctor.Patient{}, err
	}
	finder, err := a.envoyFinder()
	if err != nil {
		return doctor.Patient{}, err
	}
	policies, err := a.policyDir(policyDir)
	if err != nil {
		if policyDir != "" {
			return doctor.Patient{}, err
		}
		policies = "" // Not named and not found: the doctor says what follows.
	}
	return doctor.Patient{
		State: dir, Envoy: finder, BinDir: a.binDir(), PolicyDir: policies, Claimer: stack.SystemClaimer{},
		Getenv: a.getenv, Now: time.Now(), Record: record, Running: running,
	}, nil
}

func (a *App) printFindings(findings []doctor.Finding) {
	for _, f := range findings {
		fmt.Fprintf(a.Stdout, "%-8s %s: %s\n", f.Level, f.Check, f.Message)
		if f.Fix != "" {
			fmt.Fprintf(a.Stdout, "%-8s fix: %s\n", "", f.Fix)
		}
	}
}
