package command

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	names "k8s.io/apimachinery/pkg/util/validation"

	"weir.dev/cli/internal/stack"
)

// upKubernetes are the options of up that go with --kubernetes.
type upKubernetes struct {
	kubernetes bool
	kubeconfig string
	context    string
	namespaces []string
}

func (o *upKubernetes) flags(c *cobra.Command) {
	c.Flags().BoolVar(&o.kubernetes, "kubernetes", false, "follow a Kubernetes API beside the folder")
	c.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "with --kubernetes, the `file` that says how to reach it (default $KUBECONFIG, or ~/.kube/config)")
	c.Flags().StringVar(&o.context, "context", "", "with --kubernetes, the kubeconfig's `context` (default its current one)")
	c.Flags().StringArrayVarP(&o.namespaces, "namespace", "n", nil, "with --kubernetes, a `namespace` to read; may be given several times (default all)")
}

func (o *upKubernetes) validate() error {
	if !o.kubernetes && (o.kubeconfig != "" || o.context != "" || len(o.namespaces) > 0) {
		return usageError{fmt.Errorf("--kubeconfig, --context and --namespace go with --kubernetes")}
	}
	for _, namespace := range o.namespaces {
		if bad := names.IsDNS1123Label(namespace); len(bad) > 0 {
			return usageError{fmt.Errorf("--namespace %q: %s", namespace, bad[0])}
		}
	}
	return nil
}

// locate finds the kubeconfig, for processes that run elsewhere.
func (o *upKubernetes) locate(getenv func(string) string) error {
	if !o.kubernetes {
		return nil
	}
	if o.kubeconfig == "" {
		if list := filepath.SplitList(getenv("KUBECONFIG")); len(list) > 0 {
			o.kubeconfig = list[0]
		} else {
			o.kubeconfig = filepath.Join(getenv("HOME"), ".kube", "config")
		}
	}
	path, err := filepath.Abs(o.kubeconfig)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("which Kubernetes API to follow is not known: %w; name a file with --kubeconfig", err)
	}
	o.kubeconfig = path
	return nil
}

// source is what the stack is told; nil for none.
func (o *upKubernetes) source() *stack.Kubernetes {
	if !o.kubernetes {
		return nil
	}
	return &stack.Kubernetes{Kubeconfig: o.kubeconfig, Context: o.context, Namespaces: o.namespaces}
}

// arguments are the options again, for a process of its own.
func (o *upKubernetes) arguments() []string {
	if !o.kubernetes {
		return nil
	}
	arguments := []string{"--kubernetes", "--kubeconfig", o.kubeconfig, "--context", o.context}
	for _, namespace := range o.namespaces {
		arguments = append(arguments, "--namespace", namespace)
	}
	return arguments
}
