package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/cli/internal/term"
	"weir.dev/policy"
)

type applyOptions struct {
	prune  []string
	dryRun bool
	wait   time.Duration
	format *string
	kubernetesOptions
	istio istioOptions
	reach reachOptions
}

// applied is the outcome of apply.
type applied struct {
	Objects  []policy.Change `json:"objects,omitempty"`
	Problems policy.Problems `json:"problems,omitempty"`
	Plan     string          `json:"plan"`
	// Programmed is set once the proxies serve it; Waiting says why they don't.
	Programmed bool   `json:"programmed"`
	Waiting    string `json:"waiting,omitempty"`
	DryRun     bool   `json:"dryRun,omitempty"`
}

func (a *App) applyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "apply PATH...", Short: "Send policy to the running control plane, to Kubernetes or to Istio, and wait until the proxies serve it",
		Long: "Send the objects of policy folders or files to the running control plane. It checks all of them together with\n" +
			"what runs, keeps all or none, and the command waits until every proxy has acknowledged them.\n" +
			"Applied objects are kept beside the folder that weir up follows, and stay over restarts. An object that the\n" +
			"followed folder defines is refused: edit it there. Nothing is deleted but what --prune names.\n" +
			"\n" +
			"With --kubernetes they are sent to a Kubernetes API instead, by server-side apply as field manager weir. The API\n" +
			"server tries every object before any is changed; where another manager owns a field, it is named. The command\n" +
			"then waits until the status of each object says that the proxies serve it. Objects applied with --set NAME\n" +
			"form a set, of which --prune-set deletes what PATHs do not hold any more.\n" +
			"\n" +
			"With --target istio PATHs are compiled for Istio's gateway, as weir translate shows it, and applied: guards before\n" +
			"the routes that need them, once every istiod and extauthz has them. Then the gateways' configuration is looked at:\n" +
			"each route and each patch of an EnvoyFilter has to be there, or everything is put back. PATHs are the whole of\n" +
			"--set: what else it holds is deleted. With --wait 0 nothing is waited for, looked at, or guarded in this way.\n" +
			"Exits with 0 once it is served (or checked, with --dry-run), and with 1 when it is refused or not served in time.",
		Args: arguments(0, 100),
	}
	var o applyOptions
	c.Flags().StringArrayVar(&o.prune, "prune", nil, "delete this applied `Kind/namespace/name`; may be given several times")
	o.flags(c)
	o.istio.flags(c)
	o.reach.flags(c)
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "check everything and change nothing")
	c.Flags().DurationVar(&o.wait, "wait", time.Minute, "how long to wait for the proxies (with --target istio, at each step); 0 for not at all, at most 5m")
	o.format = formatFlag(c)
	c.Example = "  weir apply ./policies\n  weir apply ./policies --kubernetes --context staging --set edge --prune-set\n  weir apply --target istio examples/istio"
	c.RunE = func(c *cobra.Command, paths []string) error { return a.apply(c.Context(), paths, o) }
	return c
}

func (a *App) apply(ctx context.Context, paths []string, o applyOptions) error {
	if err := checkFormat(*o.format); err != nil {
		return err
	}
	switch {
	case o.wait < 0 || o.wait > 5*time.Minute:
		return usageError{fmt.Errorf("--wait %s is outside 0s to 5m", o.wait)}
	case len(paths) == 0 && len(o.prune) == 0 && !o.pruneSet:
		return usageError{errors.New("name a policy folder or file to apply, or something to --prune")}
	}
	if err := o.istio.validate(); err != nil {
		return err
	}
	if o.istio.target == targetIstio {
		return a.applyToIstio(ctx, paths, o)
	}
	if err := o.validate(); err != nil {
		return usageError{err}
	}
	if o.kubernetes {
		return a.applyToKubernetes(ctx, paths, o)
	}
	request := &adminv1.ApplyRequest{Prune: o.prune, DryRun: o.dryRun, Wait: durationpb.New(o.wait)}
	if len(paths) > 0 {
		var err error
		if request.Documents, err = documents(paths); err != nil {
			return err
		}
	}
	result := applied{DryRun: o.dryRun}
	progress := term.NewProgress(a.Stderr)
	progress.Set("waiting for the proxies")
	err := a.ask(ctx, o.wait+askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) error {
		stop := a.tellProgress(ctx, client, progress)
		defer stop()
		answer, err := client.Apply(ctx, request)
		if err != nil {
			if unread := problemsIn(err, &result); unread != nil {
				return unread
			}
			return err
		}
		return fromMessage(answer, &result)
	})
	progress.Stop()
	if err != nil {
		if *o.format != formatText && len(result.Problems) > 0 {
			err = errors.Join(err, write(a.Stdout, *o.format, &result, nil))
		}
		return err
	}
	return a.showApplied(&result, o)
}

// problemsIn takes what is wrong with the policy out of the error of Apply.
func problemsIn(refused error, result *applied) error {
	for _, detail := range status.Convert(refused).Details() {
		if problems, ok := detail.(*adminv1.ListProblemsResponse); ok {
			return fromMessage(problems, result)
		}
	}
	return nil
}

// tellEveryApply is how often the rollout is looked at meanwhile.
const tellEveryApply = 500 * time.Millisecond

// tellProgress shows what is waited for until stop is called.
func (a *App) tellProgress(ctx context.Context, client adminv1.AdminServiceClient, progress *term.Progress) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		ticker := time.NewTicker(tellEveryApply)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if status, err := client.GetStatus(ctx, &adminv1.GetStatusRequest{}); err == nil && status.GetWaiting() != "" {
				progress.Set("waiting: " + status.GetWaiting())
			}
		}
	}()
	return cancel
}

// rejected reports whether a proxy refused some of what was applied.
func rejected(problems policy.Problems) bool {
	return slices.ContainsFunc(problems, func(p policy.Problem) bool { return p.Code == policy.CodeRejected })
}

func (a *App) showApplied(result *applied, o applyOptions) error {
	err := write(a.Stdout, *o.format, result, func(w io.Writer) {
		printChanges(w, "documents", result.Objects)
		printProblems(w, "problems", result.Problems)
		switch {
		case result.DryRun:
			fmt.Fprintf(w, "%s would be changed; nothing was\n", plural(len(result.Objects), "object"))
		case result.Programmed && rejected(result.Problems):
			fmt.Fprintf(w, "%s changed; every proxy serves what it did not reject\n", plural(len(result.Objects), "object"))
		case result.Programmed:
			fmt.Fprintf(w, "%s changed; every proxy serves it\n", plural(len(result.Objects), "object"))
		default:
			fmt.Fprintf(w, "%s changed; not served yet: %s\n", plural(len(result.Objects), "object"), result.Waiting)
		}
	})
	if err == nil && (!result.DryRun && o.wait > 0 && !result.Programmed || len(result.Problems.Errors()) > 0) {
		err = silentError{}
	}
	return err
}
