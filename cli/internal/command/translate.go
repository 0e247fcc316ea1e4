package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"weir.dev/controlplane/envoy"
	"weir.dev/mesh/istio"
)

// translation is the resources of a policy by short type.
type translation struct {
	Resources []translated `json:"resources"`
}

type translated struct {
	Type  string          `json:"type"`
	Fleet string          `json:"fleet,omitempty"`
	Name  string          `json:"name"`
	Body  json.RawMessage `json:"body"`
}

type translateOptions struct {
	to     string
	types  []string
	names  []string
	alone  bool
	format *string
	// secrets shows them, of Istio's objects.
	secrets bool
	istioOptions
}

func (a *App) translateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "translate PATH...", Short: "Show what policy folders become: Envoy's resources, or the rules of Weir's servers",
		Long: "Show what policy folders and files become: resources for Envoy, and rules for extauthz and ratelimit.\n" +
			"Addresses of Weir's own servers, which only a running control plane knows, are stand-ins. What is secret is\n" +
			"hidden, and content of more than 4 KiB is named by its hash.\n" +
			"With --target istio they become objects for Istio's own proxies, one YAML document each, as kubectl takes them;\n" +
			"--type is an object's kind then. What weir up adds is left out always, as --alone does. When there are errors,\n" +
			"nothing is written but them.\n" +
			"Exits with 1 when something cannot be had on the target; the message names the field.",
		Example: "  weir translate --type rds examples/quickstart\n  weir translate --target istio --type EnvoyFilter examples/istio",
		Args:    arguments(1, 100),
	}
	var o translateOptions
	c.Flags().StringVar(&o.to, "to", "", "only what goes to `envoy`, or the rules of Weir's servers: envoy or rules")
	c.Flags().StringSliceVar(&o.types, "type", nil, "only these `types`: "+strings.Join(slices.Sorted(maps.Keys(envoy.Types())), ", ")+
		"; of --target istio: "+strings.Join(istio.Kinds(), ", "))
	c.Flags().StringSliceVar(&o.names, "name", nil, "only resources of these `names`")
	c.Flags().BoolVar(&o.alone, "alone", false, "leave out what weir up adds")
	o.format = c.Flags().StringP("output", "o", formatYAML, "`format` of the output: yaml or json")
	c.Flags().BoolVar(&o.secrets, "secrets", false, "show what Secrets hold, of --target istio")
	o.flags(c)
	c.RunE = func(_ *cobra.Command, paths []string) error { return a.translate(paths, o) }
	return c
}

func (o *translateOptions) validate() error {
	if *o.format != formatYAML && *o.format != formatJSON {
		return usageError{fmt.Errorf("--output %q is not known; use yaml or json", *o.format)}
	}
	if !slices.Contains([]string{"", "envoy", "rules"}, o.to) {
		return usageError{fmt.Errorf("--to %q is not known; use envoy or rules", o.to)}
	}
	if err := o.istioOptions.validate(); err != nil {
		return err
	}
	if o.target == targetIstio {
		if o.to != "" {
			return usageError{errors.New("--to is of --target envoy")}
		}
		for _, name := range o.types {
			if !slices.ContainsFunc(istio.Kinds(), func(kind string) bool { return strings.EqualFold(kind, name) }) {
				return usageError{fmt.Errorf("--type %q is not known; use one of %s", name, strings.Join(istio.Kinds(), ", "))}
			}
		}
		return nil
	}
	for _, name := range o.types {
		if envoy.Types()[name] == "" {
			return usageError{fmt.Errorf("--type %q is not known; use one of %s", name, strings.Join(slices.Sorted(maps.Keys(envoy.Types())), ", "))}
		}
	}
	return nil
}

// wants reports whether resources of a type are asked for.
func (o *translateOptions) wants(typeURL string) bool {
	short, rules := envoy.ShortType(typeURL), strings.Contains(typeURL, "/weir.")
	return (len(o.types) == 0 || slices.Contains(o.types, short)) && (o.to == "" || (o.to == "rules") == rules)
}

func (a *App) translate(paths []string, o translateOptions) error {
	if err := o.validate(); err != nil {
		return err
	}
	if o.target == targetIstio {
		return a.translateIstio(paths, o)
	}
	found, err := load(paths, o.alone)
	if err != nil {
		return err
	}
	out := translation{Resources: []translated{}}
	for _, fleet := range fleetsOf(found.plan) {
		set, err := envoy.Compile(found.plan, offlineOptions(fleet))
		if err != nil {
			return err
		}
		if err := o.collect(&out, fleet, set); err != nil {
			return err
		}
	}
	if err := write(a.Stdout, *o.format, out, func(io.Writer) {}); err != nil {
		return err
	}
	if errs := found.problems.Errors(); len(errs) > 0 {
		printProblems(a.Stderr, "left out of the above", errs)
		return silentError{}
	}
	return nil
}

func (o *translateOptions) collect(out *translation, fleet string, set envoy.Set) error {
	for _, typeURL := range set.TypeURLs() {
		if !o.wants(typeURL) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(set[typeURL])) {
			if len(o.names) > 0 && !slices.Contains(o.names, name) {
				continue
			}
			body, err := envoy.Show(set[typeURL][name])
			if err != nil {
				return err
			}
			out.Resources = append(out.Resources, translated{Type: envoy.ShortType(typeURL), Fleet: fleet, Name: name, Body: body})
		}
	}
	return nil
}
