package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"weir.dev/cli/internal/kubeapply"
	"weir.dev/cli/internal/term"
	"weir.dev/mesh/apply"
	"weir.dev/mesh/istio"
	"weir.dev/mesh/probe"
)

// defaultSet is that of --target istio.
const defaultSet = "default"

// maxFields bounds the fields of one object that are listed.
const maxFields = 40

// clusterOptions say which cluster is meant, and which set in it.
type clusterOptions struct {
	kubeconfig string
	context    string
	set        string
}

func (o *clusterOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "with --target istio, the `file` that says how to reach the cluster (default $KUBECONFIG, or ~/.kube/config)")
	c.Flags().StringVar(&o.context, "context", "", "with --target istio, the kubeconfig's `context` (default its current one)")
	c.Flags().StringVar(&o.set, "set", "", "with --target istio, the `name` of the set that the objects are part of (default "+defaultSet+")")
}

// reachOptions say where what runs of the mesh is asked.
type reachOptions struct {
	istiod string
	admin  uint16
}

func (o *reachOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.istiod, "istiod-namespace", "istio-system", "with --target istio, the `namespace` of istiod")
	c.Flags().Uint16Var(&o.admin, "extauthz-admin-port", 9002, "with --target istio, the `port` of extauthz's admin server, in its pods")
}

// istioCluster reaches the cluster.
func (a *App) istioCluster(o clusterOptions) (apply.Cluster, *rest.Config, error) {
	config, _, err := kubeapply.Load(kubeapply.Config{Kubeconfig: o.kubeconfig, Context: o.context, Getenv: a.getenv})
	if err != nil {
		return apply.Cluster{}, nil, err
	}
	config.WarningHandler = &warnings{to: a.Stderr}
	cluster, err := apply.Connect(config)
	return cluster, config, err
}

// warnings shows each of the API server's once, but for the one that every
// EnvoyFilter gets for being one. Safe for concurrent use.
type warnings struct {
	to   io.Writer
	mu   sync.Mutex
	said map[string]bool
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text == "" || w.said[text] || strings.HasPrefix(text, "EnvoyFilter exposes internal implementation details") {
		return
	}
	if w.said == nil {
		w.said = map[string]bool{}
	}
	w.said[text] = true
	fmt.Fprintf(w.to, "weir: the API server warns: %s\n", printable(text))
}

func (o *istioOptions) mesh(config *rest.Config, reach reachOptions) (*probe.Mesh, error) {
	options, err := o.compile()
	if err != nil {
		return nil, err
	}
	ways, err := probe.NewReach(config)
	if err != nil {
		return nil, err
	}
	return probe.NewMesh(ways, probe.Config{Options: options, IstiodNamespace: reach.istiod, ExtAuthzAdmin: int(reach.admin)}), nil
}

// requestForIstio compiles paths; the result is set instead when they have errors.
func (a *App) requestForIstio(paths []string, o istioOptions, set string) (request apply.Request, refused *apply.Result, err error) {
	if err := checkSet(set); err != nil {
		return request, nil, usageError{err}
	}
	found, err := a.loadForIstio(paths, o)
	if err != nil {
		return request, nil, err
	}
	if found.own == 0 {
		return request, nil, fmt.Errorf("there is no policy in %s", strings.Join(paths, " "))
	}
	if errs := found.found.Errors(); len(errs) > 0 {
		return request, &apply.Result{Objects: []apply.Outcome{}, Problems: found.found}, nil
	}
	if len(found.found) > 0 {
		printProblems(a.Stderr, "notices", found.found)
	}
	options, err := o.compile()
	return apply.Request{
		Objects: found.made, Options: options, CheckTimeout: istio.CheckTimeout(found.plan), Set: cmp.Or(set, defaultSet),
	}, nil, err
}

func (a *App) planForIstio(ctx context.Context, paths []string, o planOptions) error {
	if o.against != "" || o.prune != nil || o.whole || o.resources || o.alone {
		return usageError{errors.New("--against, --prune, --whole, --resources and --alone do not go with --target istio: PATHs are compared with the cluster, as the whole of --set")}
	}
	request, result, err := a.requestForIstio(paths, o.istioOptions, o.cluster.set)
	if err != nil {
		return err
	}
	if result == nil {
		cluster, _, err := a.istioCluster(o.cluster)
		if err != nil {
			return err
		}
		if result, err = a.withProgress(ctx, cluster, request, apply.Plan); err != nil {
			return err
		}
	}
	if err := write(a.Stdout, *o.format, result, func(w io.Writer) { printPlanned(w, result) }); err != nil {
		return err
	}
	switch {
	case len(result.Problems.Errors()) > 0:
		return silentError{}
	case result.Differs():
		return differError{}
	}
	return nil
}

// withProgress runs Plan or Apply and shows what it is at.
func (a *App) withProgress(ctx context.Context, cluster apply.Cluster, request apply.Request, do func(context.Context, apply.Cluster, apply.Request) (*apply.Result, error)) (*apply.Result, error) {
	progress := term.NewProgress(a.Stderr)
	defer progress.Stop()
	request.Progress = progress.Set
	return do(ctx, cluster, request)
}

func (a *App) applyToIstio(ctx context.Context, paths []string, o applyOptions) error {
	switch {
	case o.kubernetes || o.namespace != "" || o.pruneSet || o.prune != nil:
		return usageError{errors.New("--kubernetes, --namespace, --prune and --prune-set do not go with --target istio: PATHs are the whole of --set, and what else it holds is deleted")}
	case len(paths) == 0:
		return usageError{errors.New("name the policy folders or files to apply")}
	}
	request, result, err := a.requestForIstio(paths, o.istio, o.set)
	if err != nil {
		return err
	}
	if result == nil {
		result, err = a.changeIstio(ctx, request, o)
		if result == nil {
			return err
		}
	}
	shown := write(a.Stdout, *o.format, result, func(w io.Writer) {
		if o.dryRun {
			printPlanned(w, result)
		} else {
			printAppliedToIstio(w, result)
		}
	})
	if err = errors.Join(err, shown); err == nil && (len(result.Problems.Errors()) > 0 || len(result.Failed) > 0) {
		err = silentError{}
	}
	return err
}

func (a *App) changeIstio(ctx context.Context, request apply.Request, o applyOptions) (*apply.Result, error) {
	cluster, config, err := a.istioCluster(clusterOptions{kubeconfig: o.kubeconfig, context: o.context})
	if err != nil {
		return nil, err
	}
	request.Force, request.Wait = o.force, o.wait
	if o.dryRun {
		return a.withProgress(ctx, cluster, request, apply.Plan)
	}
	if o.wait > 0 {
		if cluster.Mesh, err = o.istio.mesh(config, o.reach); err != nil {
			return nil, err
		}
	}
	return a.withProgress(ctx, cluster, request, apply.Apply)
}

func printPlanned(w io.Writer, result *apply.Result) {
	differ, same := 0, 0
	for i := range result.Objects {
		outcome := &result.Objects[i]
		printOutcome(w, outcome)
		switch {
		case outcome.Action == apply.Unchanged && len(outcome.Conflicts) == 0:
			same++
		case outcome.Action != "":
			differ++
		}
	}
	printProblems(w, "problems", result.Problems)
	if len(result.Problems.Errors()) > 0 {
		fmt.Fprintln(w, "nothing would be changed: mend the errors first")
		return
	}
	fmt.Fprintf(w, "%s would be changed; %d as it is to be\n", plural(differ, "object"), same)
}

// printOutcome shows what would become of an object, field by field.
func printOutcome(w io.Writer, outcome *apply.Outcome) {
	signs := map[string]string{apply.Created: "+", apply.Changed: "~", apply.Deleted: "-"}
	if outcome.Action == "" || outcome.Action == apply.Unchanged && len(outcome.Conflicts)+len(outcome.Foreign) == 0 {
		return
	}
	fmt.Fprintf(w, "  %s %s%s\n", cmp.Or(signs[outcome.Action], "="), outcome.ID, inParentheses(outcome.From))
	for i, field := range outcome.Fields {
		if i == maxFields {
			fmt.Fprintf(w, "      and %s\n", plural(len(outcome.Fields)-i, "more field"))
			break
		}
		switch {
		case field.Old == "":
			fmt.Fprintf(w, "      + %s: %s\n", field.Path, field.New)
		case field.New == "":
			fmt.Fprintf(w, "      - %s: %s\n", field.Path, field.Old)
		default:
			fmt.Fprintf(w, "      ~ %s: %s -> %s\n", field.Path, field.Old, field.New)
		}
	}
	for _, conflict := range outcome.Conflicts {
		fmt.Fprintf(w, "      ! %s belongs to %s; apply needs --force-conflicts\n", cmp.Or(conflict.Field, "the object"), conflict.Owner)
	}
	for _, field := range outcome.Foreign {
		fmt.Fprintf(w, "      ? %s was put there by others, and stays\n", field)
	}
}

func inParentheses(text string) string {
	if text == "" {
		return ""
	}
	return "  (" + text + ")"
}

func printAppliedToIstio(w io.Writer, result *apply.Result) {
	changed := 0
	for _, outcome := range result.Objects {
		switch outcome.Action {
		case apply.Created, apply.Changed, apply.Deleted:
			changed++
		}
		if outcome.Action != "" && outcome.Action != apply.Unchanged && len(result.Problems.Errors()) == 0 {
			fmt.Fprintf(w, "  %s %s%s\n", outcome.ID, outcome.Action, inParentheses(outcome.From))
		}
	}
	printProblems(w, "problems", result.Problems)
	for _, note := range result.Notes {
		fmt.Fprintf(w, "  note: %s\n", note)
	}
	for _, failure := range result.Failed {
		fmt.Fprintf(w, "  failed: %s\n", failure)
	}
	switch {
	case result.RolledBack:
		fmt.Fprintln(w, "everything was put back as it was")
	case len(result.Problems.Errors()) > 0, len(result.Failed) > 0 && !touched(result):
		fmt.Fprintln(w, "nothing was changed")
	case len(result.Failed) > 0:
		fmt.Fprintln(w, "stopped midway: see above what was changed; apply again once the cause is mended")
	case result.Checked:
		fmt.Fprintf(w, "%s changed; every gateway serves it, with every patch\n", plural(changed, "object"))
	default:
		fmt.Fprintf(w, "%s changed; what the gateways make of it was not looked at\n", plural(changed, "object"))
	}
}

// touched reports whether an object is not as it was.
func touched(result *apply.Result) bool {
	for _, outcome := range result.Objects {
		switch outcome.Action {
		case apply.Created, apply.Changed, apply.Deleted, apply.NotRestored:
			return true
		}
	}
	return false
}
