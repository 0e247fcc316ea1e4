package command

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/mesh/assert"
)

// maxDump bounds a configuration dump that is read.
const maxDump = 256 << 20

func (a *App) meshCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "mesh", Short: "Work with Istio", Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.meshAssertCommand(), a.meshBaseCommand(), a.meshCheckCommand(), a.meshMTLSCommand())
	return c
}

func (a *App) meshAssertCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "assert PATH...", Short: "Check that each EnvoyFilter of a policy does what it was made for",
		Long: "Check that the EnvoyFilters which `weir translate --target istio` makes of policy folders are in a proxy's\n" +
			"configuration: each of their patches as often as it should match, with everything that it puts in. An EnvoyFilter\n" +
			"that matches nothing is no error to Istio, and one that matched may not any more after an upgrade.\n" +
			"--dump is the proxy's configuration, as its /config_dump answers. What weir up adds is left out of the policy.\n" +
			"Exits with 0 when all hold, and with 1 when one does not or when it cannot be told.",
		Example: "  kubectl exec -n istio-ingress deploy/istio-ingressgateway -- pilot-agent request GET config_dump |\n" +
			"    weir mesh assert examples/istio --dump -",
		Args: arguments(1, 100),
	}
	var o istioOptions
	o.flags(c)
	dump := c.Flags().String("dump", "", "`file` with the proxy's configuration; - for standard input")
	format := formatFlag(c)
	c.RunE = func(_ *cobra.Command, paths []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		if *dump == "" {
			return usageError{errors.New("name the proxy's configuration with --dump")}
		}
		if err := o.validate(); err != nil {
			return err
		}
		return a.meshAssert(paths, *dump, *format, o)
	}
	return c
}

func (a *App) meshAssert(paths []string, dump, format string, o istioOptions) error {
	found, err := a.loadForIstio(paths, o)
	if err != nil {
		return err
	}
	if errs := found.found.Errors(); len(errs) > 0 {
		printProblems(a.Stderr, "problems", errs)
		return silentError{}
	}
	content, err := a.readDump(dump)
	if err != nil {
		return err
	}
	var filters []*unstructured.Unstructured
	for i := range found.made {
		if found.made[i].Kind == "EnvoyFilter" {
			filters = append(filters, found.made[i].Unstructured())
		}
	}
	findings, err := assert.Check(filters, content)
	if err != nil {
		return err
	}
	result := map[string]any{"checked": len(filters), "findings": append([]assert.Finding{}, findings...)}
	err = write(a.Stdout, format, result, func(w io.Writer) {
		for _, finding := range findings {
			fmt.Fprintf(w, "%s\n", finding)
		}
		fmt.Fprintf(w, "%s checked: %s\n", plural(len(filters), "EnvoyFilter"), plural(len(findings), "finding"))
	})
	if err == nil && len(findings) > 0 {
		err = silentError{}
	}
	return err
}

func (a *App) readDump(name string) ([]byte, error) {
	from := a.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close() //nolint:errcheck // only read
		from = file
	}
	content, err := io.ReadAll(io.LimitReader(from, maxDump+1))
	if err == nil && len(content) > maxDump {
		err = fmt.Errorf("%s has more than %d bytes", name, maxDump)
	}
	return content, err
}
