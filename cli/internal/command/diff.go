package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// difference is what differs between two policies. Its JSON is that of
// weir.admin.v1.DiffResponse.
type difference struct {
	// Objects are the documents, Served what the Plans serve, Resources what the
	// proxies and servers are sent.
	Objects   []policy.Change        `json:"objects,omitempty"`
	Served    []policy.Change        `json:"served,omitempty"`
	Resources []envoy.ResourceChange `json:"resources,omitempty"`
	// Problems of the proposed policy, and which of them are new.
	Problems    policy.Problems `json:"problems,omitempty"`
	NewProblems policy.Problems `json:"newProblems,omitempty"`
	Mended      policy.Problems `json:"mended,omitempty"`
	// OldPlan and NewPlan are digests.
	OldPlan string `json:"oldPlan,omitempty"`
	NewPlan string `json:"newPlan,omitempty"`
}

// empty reports whether nothing that is served or written differs.
func (d *difference) empty() bool { return len(d.Objects)+len(d.Served)+len(d.Resources) == 0 }

type diffOptions struct {
	resources bool
	alone     bool
	format    *string
}

func (o *diffOptions) flags(c *cobra.Command) {
	c.Flags().BoolVar(&o.resources, "resources", false, "show how the resources sent to proxies and servers differ, line by line")
	c.Flags().BoolVar(&o.alone, "alone", false, "leave out what weir up adds")
	o.format = formatFlag(c)
}

func (a *App) diffCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "diff [OLD] NEW", Short: "Show how two policy folders, or what runs and a folder, differ",
		Long: "Show how two policy folders or files differ: document by document, in what is served (ports, routes, who may\n" +
			"call, how often, backends), and as resources sent to Envoy and Weir's servers. Secrets are not shown.\n" +
			"With one path, what runs is compared with what it would be if the path's objects were applied.\n" +
			"Exits with 0 when nothing differs, with 2 when something does, and with 1 when it cannot be told.",
		Args: arguments(1, 2), Annotations: map[string]string{answersDiffer: "yes"},
	}
	var o diffOptions
	o.flags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkFormat(*o.format); err != nil {
			return err
		}
		next := planOptions{diffOptions: o}
		if len(args) == 2 {
			next.against = args[0]
		}
		found, err := a.proposed(c.Context(), args[len(args)-1:], next)
		if err != nil {
			return err
		}
		return a.showDifference(found, *o.format)
	}
	return c
}

func (a *App) planCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "plan PATH...", Short: "Show what applying policy folders would change",
		Long: "Show what applying policy folders or files would change: document by document, in what is served, and as\n" +
			"resources. It is compared with what runs, where objects that are not in PATHs stay as they are, or with the\n" +
			"whole folder named by --against. Errors that run already do not count.\n" +
			"With --target istio, PATHs are compiled for Istio's gateway and compared with what is in the cluster, as the API\n" +
			"server's dry run says, object by object and field by field; what Secrets hold is not shown.\n" +
			"Exits with 0 when nothing would change, with 2 when something would, and with 1 when it cannot be told or\n" +
			"the proposed policy has errors.",
		Args: arguments(1, 100), Annotations: map[string]string{answersDiffer: "yes"},
		Example: "  weir plan ./policies\n  weir plan --target istio examples/istio",
	}
	var o planOptions
	o.diffOptions.flags(c)
	o.istioOptions.flags(c)
	o.cluster.flags(c)
	c.Flags().StringVar(&o.against, "against", "", "compare with this `folder` instead of what runs")
	c.Flags().StringArrayVar(&o.prune, "prune", nil, "delete this `Kind/namespace/name`, too; may be given several times")
	c.Flags().BoolVar(&o.whole, "whole", false, "take PATHs for all that is applied: other applied objects count as deleted")
	c.RunE = func(c *cobra.Command, args []string) error { return a.plan(c.Context(), args, o) }
	return c
}

type planOptions struct {
	diffOptions
	against string
	prune   []string
	whole   bool
	istioOptions
	cluster clusterOptions
}

func (a *App) plan(ctx context.Context, paths []string, o planOptions) error {
	if err := checkFormat(*o.format); err != nil {
		return err
	}
	if err := o.validate(); err != nil {
		return err
	}
	if o.target == targetIstio {
		return a.planForIstio(ctx, paths, o)
	}
	if o.cluster != (clusterOptions{}) {
		return usageError{errors.New("--kubeconfig, --context and --set go with --target istio")}
	}
	found, err := a.proposed(ctx, paths, o)
	if err != nil {
		return err
	}
	err = a.showDifference(found, *o.format)
	problems := found.NewProblems
	if o.against != "" {
		problems = found.Problems
	}
	if count := len(problems.Errors()); count > 0 {
		return fmt.Errorf("the proposed policy has %s", plural(count, "error"))
	}
	return err
}

func (a *App) proposed(ctx context.Context, paths []string, o planOptions) (*difference, error) {
	if o.against != "" {
		return diffPaths(o.against, paths, o.diffOptions)
	}
	files, err := documents(paths)
	if err != nil {
		return nil, err
	}
	return a.askDiff(ctx, &adminv1.DiffRequest{Documents: files, Prune: o.prune, Whole: o.whole, ResourceText: o.resources})
}

func diffPaths(before string, after []string, o diffOptions) (*difference, error) {
	l, err := newLoader(o.alone)
	if err != nil {
		return nil, err
	}
	old, err := l.load([]string{before})
	if err != nil {
		return nil, err
	}
	next, err := l.load(after)
	if err != nil {
		return nil, err
	}
	oldSets, err := compileAll(old.plan)
	if err != nil {
		return nil, err
	}
	newSets, err := compileAll(next.plan)
	if err != nil {
		return nil, err
	}
	found := &difference{
		Objects: policy.DiffObjects(old.objects, next.objects), Served: policy.Diff(old.plan, next.plan),
		Problems: next.problems, OldPlan: old.plan.Digest, NewPlan: next.plan.Digest,
	}
	found.NewProblems, found.Mended = policy.DiffProblems(old.problems, next.problems)
	found.Resources, err = envoy.Diff(oldSets, newSets, o.resources)
	return found, err
}

// compileAll compiles every fleet; the names of a named fleet's resources begin
// with it.
func compileAll(plan *policy.Plan) (envoy.Set, error) {
	all := envoy.Set{}
	for _, fleet := range fleetsOf(plan) {
		set, err := envoy.Compile(plan, offlineOptions(fleet))
		if err != nil {
			return nil, err
		}
		all.AddAll(fleet, set)
	}
	return all, nil
}

// fleetsOf lists a Plan's fleets; one without ports has the nameless one.
func fleetsOf(plan *policy.Plan) []string {
	fleets := []string{}
	for _, port := range plan.Ports {
		if len(fleets) == 0 || fleets[len(fleets)-1] != port.Fleet {
			fleets = append(fleets, port.Fleet)
		}
	}
	if len(fleets) == 0 {
		fleets = append(fleets, "")
	}
	return fleets
}

// showDifference prints a difference and says by its error that there is one.
func (a *App) showDifference(found *difference, format string) error {
	if err := write(a.Stdout, format, found, func(w io.Writer) { printDifference(w, found) }); err != nil {
		return err
	}
	if !found.empty() {
		return differError{}
	}
	return nil
}

func printDifference(w io.Writer, d *difference) {
	printChanges(w, "documents", d.Objects)
	printChanges(w, "what is served", d.Served)
	if len(d.Resources) > 0 {
		fmt.Fprintln(w, "resources")
	}
	for _, change := range d.Resources {
		fmt.Fprintf(w, "  %s %s %s\n", sign(change.Action), change.Type, change.Name)
		for line := range strings.Lines(change.Diff) {
			fmt.Fprintf(w, "      %s", line)
		}
	}
	printProblems(w, "mended", d.Mended)
	printProblems(w, "new problems", d.NewProblems)
	if d.empty() {
		fmt.Fprintln(w, "nothing differs")
		return
	}
	fmt.Fprintf(w, "%s; %s of what is served; %s\n", plural(len(d.Objects), "document"), plural(len(d.Served), "change"), plural(len(d.Resources), "resource"))
}

func sign(action string) string {
	switch action {
	case policy.ChangeAdded:
		return "+"
	case policy.ChangeRemoved:
		return "-"
	default:
		return "~"
	}
}

func printChanges(w io.Writer, heading string, changes []policy.Change) {
	if len(changes) > 0 {
		fmt.Fprintln(w, heading)
	}
	for _, change := range changes {
		name := change.Name
		if change.About != policy.AboutObject {
			name = change.About + " " + name
		}
		fmt.Fprintf(w, "  %s %s%s\n", sign(change.Action), name, provenance(change))
		for _, field := range change.Fields {
			switch {
			case field.Old == "":
				fmt.Fprintf(w, "      + %s: %s\n", field.Path, field.New)
			case field.New == "":
				fmt.Fprintf(w, "      - %s: %s\n", field.Path, field.Old)
			default:
				fmt.Fprintf(w, "      ~ %s: %s -> %s\n", field.Path, field.Old, field.New)
			}
		}
	}
}

// provenance is where the newest version of a thing stands.
func provenance(change policy.Change) string {
	origin := change.New
	if origin == nil {
		origin = change.Old
	}
	if origin == nil || origin.File == "" {
		return ""
	}
	return fmt.Sprintf("  (%s:%d)", origin.File, origin.Line)
}

func printProblems(w io.Writer, heading string, problems policy.Problems) {
	if len(problems) > 0 {
		fmt.Fprintln(w, heading)
	}
	for _, problem := range problems {
		fmt.Fprintf(w, "  %s: %s\n", problem.Severity, problem.Error())
	}
}
