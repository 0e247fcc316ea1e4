package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	names "k8s.io/apimachinery/pkg/util/validation"

	"weir.dev/cli/internal/kubeapply"
	"weir.dev/cli/internal/term"
	"weir.dev/controlplane/folder"
	"weir.dev/mesh/istio"
	"weir.dev/policy"
)

// kubernetesOptions are those of apply that go with --kubernetes.
type kubernetesOptions struct {
	kubernetes bool
	kubeconfig string
	context    string
	namespace  string
	set        string
	pruneSet   bool
	force      bool
}

func (o *kubernetesOptions) flags(c *cobra.Command) {
	c.Flags().BoolVar(&o.kubernetes, "kubernetes", false, "apply to a Kubernetes API")
	c.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "with --kubernetes or --target istio, the `file` that says how to reach it (default $KUBECONFIG, or ~/.kube/config)")
	c.Flags().StringVar(&o.context, "context", "", "with --kubernetes or --target istio, the kubeconfig's `context` (default its current one)")
	c.Flags().StringVarP(&o.namespace, "namespace", "n", "", "with --kubernetes, the `namespace` of objects that name none (default the context's)")
	c.Flags().StringVar(&o.set, "set", "", "the `name` of the set that the objects are part of; with --kubernetes (label "+kubeapply.SetLabel+") there is none unless named, with --target istio (label "+istio.LabelSet+") it is "+defaultSet+" unless named")
	c.Flags().BoolVar(&o.pruneSet, "prune-set", false, "with --set, delete objects of the set that PATHs do not hold")
	c.Flags().BoolVar(&o.force, "force-conflicts", false, "with --kubernetes or --target istio, take over fields that others own with another value")
}

func (o *kubernetesOptions) validate() error {
	switch {
	case !o.kubernetes && *o != kubernetesOptions{}:
		return errors.New("--kubeconfig, --context, --namespace, --set, --prune-set and --force-conflicts go with --kubernetes or --target istio")
	case o.pruneSet && o.set == "":
		return errors.New("--prune-set needs the set's name: --set NAME")
	}
	if err := checkSet(o.set); err != nil {
		return err
	}
	if o.namespace != "" {
		if bad := names.IsDNS1123Label(o.namespace); len(bad) > 0 {
			return fmt.Errorf("--namespace %q: %s", o.namespace, bad[0])
		}
	}
	return nil
}

func checkSet(set string) error {
	if set == "" {
		return nil
	}
	if bad := names.IsDNS1123Label(set); len(bad) > 0 {
		return fmt.Errorf("--set %q: %s", set, bad[0])
	}
	return nil
}

func (a *App) applyToKubernetes(ctx context.Context, paths []string, o applyOptions) error {
	request := kubeapply.Request{Set: o.set, PruneSet: o.pruneSet, Force: o.force, DryRun: o.dryRun, Wait: o.wait}
	parser, err := policy.NewParser()
	if err != nil {
		return err
	}
	request.Kinds = parser.Kinds()
	for _, name := range o.prune {
		ref, err := parseRef(name)
		if err != nil {
			return usageError{fmt.Errorf("--prune: %w", err)}
		}
		request.Prune = append(request.Prune, ref)
	}
	if len(paths) > 0 {
		update, err := folder.Read(parser, paths...)
		if err != nil {
			return err
		}
		// What the parser refuses is not offered to the API server. References are its
		// cluster's matter: what they lead to may be there already.
		if refused := update.Problems.Errors(); len(refused) > 0 {
			return a.showKubernetes(&kubeapply.Result{Problems: update.Problems, DryRun: o.dryRun}, o)
		}
		if len(update.Input.Objects) == 0 {
			return fmt.Errorf("there is no policy in %s", strings.Join(paths, " "))
		}
		request.Objects = update.Input.Objects
	}
	cluster, err := kubeapply.Connect(kubeapply.Config{Kubeconfig: o.kubeconfig, Context: o.context, Namespace: o.namespace, Getenv: a.getenv})
	if err != nil {
		return err
	}
	progress := term.NewProgress(a.Stderr)
	request.Progress = progress.Set
	result, err := cluster.Apply(ctx, request)
	progress.Stop()
	if result == nil {
		return err
	}
	return errors.Join(err, a.showKubernetes(result, o))
}

// parseRef reads Kind/namespace/name, or Kind/name of the default namespace.
func parseRef(name string) (policy.ObjectRef, error) {
	parts := strings.Split(name, "/")
	if len(parts) == 2 {
		parts = []string{parts[0], policy.DefaultNamespace, parts[1]}
	}
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return policy.ObjectRef{}, fmt.Errorf("%q is not KIND/NAME or KIND/NAMESPACE/NAME", name)
	}
	return policy.ObjectRef{Kind: parts[0], Namespace: parts[1], Name: parts[2]}, nil
}

func (a *App) showKubernetes(result *kubeapply.Result, o applyOptions) error {
	err := write(a.Stdout, *o.format, result, func(w io.Writer) { printKubernetes(w, result, o) })
	if err == nil && (len(result.Problems.Errors()) > 0 || !result.DryRun && o.wait > 0 && !result.Programmed) {
		err = silentError{}
	}
	return err
}

func printKubernetes(w io.Writer, result *kubeapply.Result, o applyOptions) {
	changed, unchecked := 0, 0
	refused := len(result.Problems.Errors()) > 0
	for _, outcome := range result.Objects {
		switch outcome.Action {
		case kubeapply.Created, kubeapply.Configured, kubeapply.Deleted:
			changed++
		case kubeapply.Unchecked:
			unchecked++
		}
		if outcome.Action != "" && (!refused || result.Stopped != "") {
			fmt.Fprintf(w, "  %s %s\n", outcome.Object, outcome.Action)
		}
	}
	printProblems(w, "problems", result.Problems)
	for _, waiting := range result.Waiting {
		fmt.Fprintf(w, "  not served: %s\n", waiting)
	}
	switch {
	case result.Stopped != "":
		fmt.Fprintf(w, "stopped %s; %s changed before, the others are as they were\n", result.Stopped, plural(changed, "object"))
	case refused:
		fmt.Fprintln(w, "nothing was changed")
	case result.DryRun:
		fmt.Fprintf(w, "%s would be changed; nothing was\n", plural(changed, "object"))
		if unchecked > 0 {
			fmt.Fprintf(w, "%s could not be checked: the namespace, which would be made, is not there yet\n", plural(unchecked, "object"))
		}
	case result.Programmed:
		fmt.Fprintf(w, "%s changed; every proxy serves it\n", plural(changed, "object"))
	case o.wait == 0:
		fmt.Fprintf(w, "%s changed\n", plural(changed, "object"))
	default:
		fmt.Fprintf(w, "%s changed; not all of it is served\n", plural(changed, "object"))
	}
}
