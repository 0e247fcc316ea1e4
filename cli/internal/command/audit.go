package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"weir.dev/extauthz/audit"
	"weir.dev/extauthz/record"
)

func (a *App) auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "audit", Short: "Verify, read and export the audit log",
		Long: "Work with the audit log of an extauthz: the decisions that policies have written. DIR is the log's folder, by\n" +
			"default that of the Weir on this machine.",
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.auditVerifyCommand(), a.auditExportCommand(), a.auditTailCommand())
	return c
}

// auditDir is the folder to read.
func (a *App) auditDir(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	dir, err := a.state()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir.Audit()); err != nil {
		return "", fmt.Errorf("there is no audit log at %s; name its folder", dir.Audit())
	}
	return dir.Audit(), nil
}

func (a *App) auditVerifyCommand() *cobra.Command {
	var keys, checkpoints []string
	c := &cobra.Command{
		Use: "verify [DIR]", Short: "Find out whether the audit log is as it was written",
		Long: "Find edits, gaps, reordering and truncation: read the whole log, check that each record follows from the one\n" +
			"before it, and that the signed checkpoints are of these records. That nothing was cut off at the end is only\n" +
			"known against a checkpoint that was kept elsewhere, with --checkpoint: copy the file \"checkpoint\" from the log's\n" +
			"folder, or GET /audit/checkpoint of extauthzd's admin address, now and then to a place that who can change the\n" +
			"log cannot change. Exits with 0 when nothing is wrong, with 2 when something is, and with 1 on failure.",
		Example:     "  weir audit verify\n  weir audit verify /var/lib/weir/audit --key audit.pub --checkpoint checkpoint-2026-03-01",
		Args:        arguments(0, 1),
		Annotations: map[string]string{answersDiffer: "yes"},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "verify with this public `KEY`, or the file that has it; several times for keys that were replaced")
	c.Flags().StringArrayVar(&checkpoints, "checkpoint", nil, "the log must reach the checkpoint in this `file`; may be given several times")
	format := formatFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		report, err := a.auditVerify(args, keys, checkpoints)
		if err != nil {
			return err
		}
		if err := write(a.Stdout, *format, report, func(w io.Writer) { printAudit(w, report) }); err != nil {
			return err
		}
		if !report.OK() {
			return differError{}
		}
		return nil
	}
	return c
}

func (a *App) auditVerify(args, keys, checkpoints []string) (*audit.Report, error) {
	dir, err := a.auditDir(args)
	if err != nil {
		return nil, err
	}
	var options audit.VerifyOptions
	if len(keys) == 0 {
		if len(args) > 0 {
			return nil, usageError{errors.New("name the public key with --key: one that lies beside the log proves nothing")}
		}
		state, err := a.state()
		if err != nil {
			return nil, err
		}
		keys = []string{filepath.Join(state.AuditKeys(), "audit.pub")}
	}
	for _, key := range keys {
		if content, err := os.ReadFile(key); err == nil {
			key = string(content)
		} else if !strings.Contains(key, "+") { // A key has them; a path hardly does.
			return nil, err
		}
		options.Keys = append(options.Keys, strings.TrimSpace(key))
	}
	for _, file := range checkpoints {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		options.Checkpoints = append(options.Checkpoints, string(content))
	}
	return audit.Verify(dir, options)
}

func printAudit(w io.Writer, r *audit.Report) {
	if r.OK() {
		fmt.Fprintf(w, "as it was written: records %d to %d of %s\n", r.First, r.Size-1, r.Origin)
	} else {
		fmt.Fprintf(w, "NOT as it was written: %s\n", r.Origin)
	}
	fmt.Fprintf(w, "  %s in %s, %s verified, %d not signed yet\n",
		plural(int(r.Size-r.First), "record"), plural(r.Files, "file"), plural(r.Checkpoints, "checkpoint"), r.Unsigned)
	fmt.Fprintf(w, "  opened %s, %s after a crash\n  root %s\n", plural(r.Openings, "time"), plural(r.Recoveries, "recovery"), orDash(r.Root))
	for _, finding := range r.Findings {
		place := finding.File
		if finding.Line > 0 {
			place = fmt.Sprintf("%s:%d", finding.File, finding.Line)
		}
		fmt.Fprintf(w, "  %s: %s\n", finding.Kind, strings.TrimPrefix(place+": "+finding.Message, ": "))
	}
	if r.MoreFindings > 0 {
		fmt.Fprintf(w, "  and %d more\n", r.MoreFindings)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "  note: %s\n", note)
	}
}

func (a *App) auditExportCommand() *cobra.Command {
	var format string
	var from int64
	c := &cobra.Command{
		Use: "export [DIR]", Short: "Write the audit log's records as JSON lines",
		Long: "Write the records as JSON lines: as they are, or as events of the Open Cybersecurity Schema Framework (OCSF " + record.OCSFVersion + "),\n" +
			"which log collectors read: API Activity of a decision, Application Lifecycle of the log's own events. The log is\n" +
			"not verified; see weir audit verify.",
		Example: "  weir audit export --format ocsf > events.jsonl\n  weir audit export --from 12000",
		Args:    arguments(0, 1),
	}
	c.Flags().StringVar(&format, "format", "json", "json or ocsf")
	c.Flags().Int64Var(&from, "from", 0, "begin with the record of this `number`")
	c.RunE = func(c *cobra.Command, args []string) error {
		if format != "json" && format != "ocsf" {
			return usageError{fmt.Errorf("--format %q is not known; use json or ocsf", format)}
		}
		dir, err := a.auditDir(args)
		if err != nil {
			return err
		}
		return audit.Read(c.Context(), dir, audit.ReadOptions{From: from}, func(seq int64, raw []byte) error {
			line := raw
			if format == "ocsf" {
				if line, err = record.OCSF(seq, raw); err != nil {
					return err
				}
			}
			_, err := fmt.Fprintf(a.Stdout, "%s\n", line)
			return err
		})
	}
	return c
}

func (a *App) auditTailCommand() *cobra.Command {
	var lines int64
	var follow bool
	c := &cobra.Command{
		Use: "tail [DIR]", Short: "Show the newest records of the audit log", Args: arguments(0, 1),
		Long: "Show the newest records of the audit log, a line each, and with -f those that come.",
	}
	c.Flags().Int64VarP(&lines, "lines", "n", 20, "how many `records` to begin with")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more")
	format := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		dir, err := a.auditDir(args)
		if err != nil {
			return err
		}
		return a.auditTail(c.Context(), dir, lines, follow, *format)
	}
	return c
}

func (a *App) auditTail(ctx context.Context, dir string, lines int64, follow bool, format string) error {
	size, err := audit.Last(ctx, dir)
	if err != nil {
		return err
	}
	return audit.Read(ctx, dir, audit.ReadOptions{From: max(0, size-lines), Follow: follow}, func(seq int64, raw []byte) error {
		if format != formatText {
			_, err := fmt.Fprintf(a.Stdout, "%s\n", raw)
			return err
		}
		_, err := fmt.Fprintln(a.Stdout, auditLine(seq, raw))
		return err
	})
}

// auditLine is a record in one line.
func auditLine(seq int64, raw []byte) string {
	var own audit.Event
	if json.Unmarshal(raw, &own) == nil && own.Event != "" {
		return fmt.Sprintf("%8d  %s  %s", seq, own.Time.UTC().Format("2006-01-02T15:04:05.000Z"), own.Event)
	}
	d, err := record.Parse(raw)
	if err != nil {
		return fmt.Sprintf("%8d  cannot be read: %v", seq, err)
	}
	outcome := "refused"
	if d.GetAllowed() {
		outcome = "allowed"
	}
	caller := "-"
	if d.GetCaller() != nil {
		caller = callerText(d.GetCaller())
	}
	r := d.GetRequest()
	return fmt.Sprintf("%8d  %s  %s %-24s %s %s%s  %s  %s", seq, d.GetTime().AsTime().Format("2006-01-02T15:04:05.000Z"),
		outcome, d.GetReason(), r.GetMethod(), r.GetHost(), r.GetPath(), caller, d.GetId())
}
