package command

import (
	"context"
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
	c := &cobra.Command{
		Use: "doctor [PATH...]", Short: "Look for what is wrong, and say how to mend it", Args: arguments(0, 100),
		Long: "Look for what is wrong on this machine and with what runs on it, and say how to mend it. With --envoy, look\n" +
			"for what in an Envoy's configuration undoes what extauthz does. With --target istio and the PATHs of a policy, look\n" +
			"at the mesh that it was applied to: extension provider, gateways, extauthz, patches, changes by hand, strays.\n" +
			"Ends with 1 if anything is an error.",
		Example: "  weir doctor\n  weir doctor --target istio examples/istio",
	}
	var forMesh meshPatient
	forMesh.istio.flags(c)
	forMesh.cluster.flags(c)
	forMesh.reach.flags(c)
	format := outputFlag(c)
	dir := c.Flags().String("dir", "", "the policy `folder`, as for up")
	envoy := c.Flags().String("envoy", "", "look at this Envoy's configuration alone: a `file`, or http://host:port of its admin server")
	c.RunE = func(c *cobra.Command, paths []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		if err := forMesh.validate(paths, *dir+*envoy); err != nil {
			return err
		}
		var findings []doctor.Finding
		if forMesh.istio.target == targetIstio {
			findings, err = a.examineIstio(c.Context(), paths, forMesh)
		} else {
			findings, err = a.examine(c.Context(), *dir, *envoy)
		}
		if err != nil {
			return err
		}
		report := doctorReport{OK: true, Findings: findings}
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

// examine looks at the machine and what runs on it, or at one Envoy alone.
func (a *App) examine(ctx context.Context, policyDir, envoy string) ([]doctor.Finding, error) {
	if envoy != "" {
		return doctor.ExamineEnvoy(ctx, envoy)
	}
	patient, err := a.patient(policyDir)
	if err != nil {
		return nil, err
	}
	patient.Record = probeAll(ctx, patient.Record)
	return doctor.Examine(ctx, patient), nil
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
