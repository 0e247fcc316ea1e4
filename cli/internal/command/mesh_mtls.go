package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	names "k8s.io/apimachinery/pkg/util/validation"

	"weir.dev/cli/internal/term"
	"weir.dev/mesh/mtls"
	"weir.dev/mesh/mtls/live"
	"weir.dev/mesh/probe"
)

// maxObserve bounds --observe and --watch.
const maxObserve = 24 * time.Hour

// shortObserve is how long Envoy lets connections live on a way that has changed: who
// holds one longer is seen when it is ended.
const shortObserve = 50 * time.Second

// mtlsOptions are those of all commands about mutual TLS.
type mtlsOptions struct {
	cluster   clusterOptions
	istiod    string
	namespace string
	workload  map[string]string
	observe   time.Duration
	watch     time.Duration
	wait      time.Duration
	dryRun    bool
	format    *string
}

func (o *mtlsOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.cluster.kubeconfig, "kubeconfig", "", "`file` that says how to reach the cluster (default $KUBECONFIG, or ~/.kube/config)")
	c.Flags().StringVar(&o.cluster.context, "context", "", "the kubeconfig's `context` (default its current one)")
	c.Flags().StringVar(&o.istiod, "istiod-namespace", "istio-system", "`namespace` of istiod")
	c.Flags().StringVarP(&o.namespace, "namespace", "n", "", "the `namespace` that it is about")
	o.format = formatFlag(c)
}

func (o *mtlsOptions) changeFlags(c *cobra.Command) {
	c.Flags().StringToStringVar(&o.workload, "workload", nil, "`labels` of the pods of one workload (default the whole namespace)")
	c.Flags().DurationVar(&o.wait, "wait", time.Minute, "how long a change may take until every sidecar has it")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "decide, and change no mode")
}

// validate checks what the flags say; a namespace is needed to change anything.
func (o *mtlsOptions) validate(needed bool) error {
	if err := checkFormat(*o.format); err != nil {
		return err
	}
	if needed && o.namespace == "" {
		return usageError{errors.New("name the namespace with -n")}
	}
	if o.namespace != "" && len(names.IsDNS1123Label(o.namespace)) > 0 {
		return usageError{fmt.Errorf("%q is no name of a namespace", o.namespace)}
	}
	for key, value := range o.workload {
		if len(names.IsQualifiedName(key)) > 0 || len(names.IsValidLabelValue(value)) > 0 {
			return usageError{fmt.Errorf("--workload: %s=%s is no label", key, value)}
		}
	}
	for name, value := range map[string]time.Duration{"observe": o.observe, "watch": o.watch, "wait": o.wait} {
		if value < 0 || value > maxObserve {
			return usageError{fmt.Errorf("--%s: %s is not between 0 and %s", name, value, maxObserve)}
		}
	}
	return nil
}

func (a *App) meshMTLSCommand() *cobra.Command {
	c := a.mtlsStatusCommand("mtls", "See and change which namespaces and workloads take plaintext")
	c.Long = "See which namespaces and workloads take plaintext, and take them from DISABLE to PERMISSIVE to STRICT without locking\n" +
		"callers out. Without a command it shows what is in force, as `weir mesh mtls status` does."
	c.Example = "  weir mesh mtls\n  weir mesh mtls status -n shop --observe 2m\n  weir mesh mtls set STRICT -n shop\n  weir mesh mtls rollback -n shop"
	c.AddCommand(a.mtlsStatusCommand("status", "Show which mode is in force, and who says so"), a.mtlsSetCommand(), a.mtlsRollbackCommand())
	return c
}

func (a *App) mtlsStatusCommand(use, short string) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: arguments(0, 0),
		Long: "Show the mode of mutual TLS that is in force for each namespace and workload, the PeerAuthentication that says so, and\n" +
			"how many of its pods have a sidecar: the others take plaintext whatever the mode. With -n and --observe, callers in\n" +
			"plaintext are looked for, as before STRICT.",
		Example: "  weir mesh mtls status\n  weir mesh mtls status -n shop --observe 2m -o json",
	}
	var o mtlsOptions
	o.flags(c)
	c.Flags().DurationVar(&o.observe, "observe", 0, "with -n, how long to look for callers in plaintext")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.validate(o.observe > 0); err != nil {
			return err
		}
		return a.mtlsStatus(c.Context(), o)
	}
	return c
}

func (a *App) mtlsSetCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "set MODE", Short: "Take a namespace or workload one step on, or back", Args: arguments(1, 1),
		Long: "Take a namespace, or one workload of it, one step between DISABLE, PERMISSIVE and STRICT, by a PeerAuthentication.\n" +
			"Before STRICT the sidecars tell for --observe who calls in plaintext; if somebody does, or a sidecar cannot be asked,\n" +
			"it is refused and each caller is named. After it, it is put back if somebody is refused within --watch, if a sidecar\n" +
			"does not take it within --wait, or when you interrupt it.\n" +
			"What is observed is logged by an EnvoyFilter that is taken away again. TCP connections to the pods that are older than\n" +
			"it are ended once, after Envoy's drain time of 45 seconds, so that who holds them is seen as it comes back.\n" +
			"Exits with 0 when the mode is in force in every sidecar, and with 1 when it was refused or put back.",
		Example: "  weir mesh mtls set PERMISSIVE -n shop\n  weir mesh mtls set STRICT -n shop --workload app=orders --observe 10m",
	}
	var o mtlsOptions
	o.flags(c)
	o.changeFlags(c)
	c.Flags().DurationVar(&o.observe, "observe", 2*time.Minute, "how long to look for callers in plaintext before STRICT")
	c.Flags().DurationVar(&o.watch, "watch", 30*time.Second, "how long to watch for callers that are refused after STRICT")
	c.RunE = func(c *cobra.Command, args []string) error {
		mode, err := mtls.ParseMode(args[0])
		if err != nil {
			return usageError{err}
		}
		if err := o.validate(true); err != nil {
			return err
		}
		if o.observe < time.Second {
			return usageError{fmt.Errorf("--observe: %s is too short to see anybody", o.observe)}
		}
		return a.changeMTLS(c.Context(), o, mode, mtls.Set)
	}
	return c
}

func (a *App) mtlsRollbackCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rollback", Short: "Return to the mode before", Args: arguments(0, 0),
		Long: "Return a namespace or workload to the mode that it had before `weir mesh mtls set`; where Weir had set none, its\n" +
			"PeerAuthentication is deleted. It never returns to STRICT, which `set` has to look for. What an observation left that\n" +
			"was killed is taken away first; when it had changed no mode yet, nothing else is done.",
		Example: "  weir mesh mtls rollback -n shop",
	}
	var o mtlsOptions
	o.flags(c)
	o.changeFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.validate(true); err != nil {
			return err
		}
		return a.changeMTLS(c.Context(), o, mtls.Unset, mtls.Rollback)
	}
	return c
}

func (a *App) mtlsCluster(o mtlsOptions) (*live.Cluster, error) {
	cluster, config, err := a.istioCluster(o.cluster)
	if err != nil {
		return nil, err
	}
	reach, err := probe.NewReach(config)
	if err != nil {
		return nil, err
	}
	return live.New(cluster.Objects, reach, o.istiod), nil
}

type mtlsStatus struct {
	Rows []mtls.Row `json:"rows"`
	// Observed is how long callers were looked for.
	Observed string        `json:"observed,omitempty"`
	Callers  []mtls.Caller `json:"callers,omitempty"`
	Unknown  []string      `json:"unknown,omitempty"`
}

func (a *App) mtlsStatus(ctx context.Context, o mtlsOptions) error {
	cluster, err := a.mtlsCluster(o)
	if err != nil {
		return err
	}
	state, err := cluster.State(ctx, o.namespace)
	if err != nil {
		return err
	}
	found := mtlsStatus{Rows: mtls.Rows(state)}
	if o.namespace != "" {
		found.Rows = slices.DeleteFunc(found.Rows, func(row mtls.Row) bool { return row.Namespace != o.namespace })
	}
	if o.observe > 0 {
		progress := term.NewProgress(a.Stderr)
		evidence, err := mtls.Watch(ctx, cluster, mtls.Request{
			Scope: mtls.Scope{Namespace: o.namespace}, Observe: o.observe, Wait: time.Minute, Progress: progress.Set,
		})
		progress.Stop()
		if err != nil {
			return err
		}
		found.Observed, found.Unknown = o.observe.String(), evidence.Unknown
		found.Callers = mtls.Plaintext(evidence.Callers)
	}
	err = write(a.Stdout, *o.format, found, func(w io.Writer) { printMTLSStatus(w, &found) })
	if err == nil && len(found.Unknown) > 0 {
		err = silentError{}
	}
	return err
}

func printMTLSStatus(w io.Writer, found *mtlsStatus) {
	table := [][]string{{"NAMESPACE", "WORKLOAD", "SIDECARS", "MODE", "BY"}}
	for _, row := range found.Rows {
		mode := string(row.Mode)
		for _, port := range slices.Sorted(maps.Keys(row.Ports)) {
			mode += fmt.Sprintf(", %d: %s", port, row.Ports[port])
		}
		workload := row.Workload
		if workload == "" {
			workload = "all"
		}
		table = append(table, []string{row.Namespace, workload, fmt.Sprintf("%d of %d", row.Sidecars, row.Pods), mode, row.By})
	}
	if len(found.Rows) == 0 {
		fmt.Fprintln(w, "no pod has a sidecar, and there is no PeerAuthentication")
	} else {
		term.Table(w, table)
	}
	if found.Observed != "" {
		fmt.Fprintf(w, "%s in %s\n", plural(len(found.Callers), "plaintext caller"), found.Observed)
	}
	printCallers(w, found.Callers)
	for _, line := range found.Unknown {
		fmt.Fprintf(w, "  not known: %s\n", printable(line))
	}
}

func printCallers(w io.Writer, callers []mtls.Caller) {
	for i := range callers {
		fmt.Fprintf(w, "  %s\n", &callers[i])
	}
}

// changeMTLS runs Set or Rollback, and says what came of it.
func (a *App) changeMTLS(ctx context.Context, o mtlsOptions, to mtls.Mode, do func(context.Context, mtls.Cluster, mtls.Request) (*mtls.Result, error)) error {
	cluster, err := a.mtlsCluster(o)
	if err != nil {
		return err
	}
	if to == mtls.Strict && o.observe < shortObserve {
		fmt.Fprintf(a.Stderr, "weir: --observe %s is short: who holds a connection is seen after 45 seconds\n", o.observe)
	}
	progress := term.NewProgress(a.Stderr)
	result, err := do(ctx, cluster, mtls.Request{
		Scope: mtls.Scope{Namespace: o.namespace, Selector: o.workload}, To: to,
		Observe: o.observe, Watch: o.watch, Wait: o.wait, DryRun: o.dryRun, Progress: progress.Set,
	})
	progress.Stop()
	if err != nil {
		return err
	}
	err = write(a.Stdout, *o.format, result, func(w io.Writer) { printMTLSResult(w, result) })
	if err == nil && !slices.Contains([]string{mtls.Changed, mtls.Unchanged, mtls.WouldBe, mtls.Cleared}, result.Action) {
		err = silentError{}
	}
	return err
}

func printMTLSResult(w io.Writer, result *mtls.Result) {
	for _, reason := range result.Reasons {
		fmt.Fprintf(w, "  %s\n", printable(reason.Error()))
	}
	for _, note := range result.Notes {
		fmt.Fprintf(w, "  note: %s\n", printable(note))
	}
	scope := result.Scope.String()
	switch result.Action {
	case mtls.Changed:
		fmt.Fprintf(w, "%s is %s in %s; it was %s\n", scope, result.To, plural(result.Sidecars, "sidecar"), result.From)
	case mtls.Unchanged:
		fmt.Fprintf(w, "%s is %s already\n", scope, result.To)
	case mtls.WouldBe:
		if result.To == result.From {
			fmt.Fprintf(w, "%s would stay %s\n", scope, result.From)
			return
		}
		fmt.Fprintf(w, "%s would be %s in %s; it is %s\n", scope, result.To, plural(result.Sidecars, "sidecar"), result.From)
	case mtls.Cleared:
		fmt.Fprintf(w, "%s stays %s: what an observation left was taken away\n", scope, result.From)
	case mtls.RolledBack:
		fmt.Fprintf(w, "%s is %s again: everything was put back as it was\n", scope, result.From)
	case mtls.Stuck:
		fmt.Fprintf(w, "%s could not be put back to %s\n", scope, result.From)
	default:
		what := string(result.To)
		if result.To == result.From {
			what = "a change"
		}
		fmt.Fprintf(w, "%s stays %s: %s is refused\n", scope, result.From, what)
	}
}
