package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/controlplane/folder"
	"weir.dev/controlplane/kube"
	"weir.dev/controlplane/source"
	"weir.dev/policy"
)

// kubernetesSuffix names the file that keeps what the Kubernetes API last held,
// after that of the folders.
const kubernetesSuffix = ".kubernetes"

// SourcesConfig says where policy comes from. Several sources make one policy.
type SourcesConfig struct {
	// Folders of YAML files, read recursively and followed.
	Folders []string `yaml:"folders"`
	// Managed is the folder where objects are kept that come by the admin API
	// (weir apply); it is followed, too. Empty refuses them.
	Managed string `yaml:"managed"`
	// Kubernetes is an API server whose objects are followed, and told their
	// status.
	Kubernetes kube.Config `yaml:"kubernetes"`
}

func (c *SourcesConfig) validate() []error {
	var errs []error
	if len(c.Folders) == 0 && !c.Kubernetes.Enabled {
		errs = append(errs, errors.New("sources.folders: name at least one folder of policy, or set sources.kubernetes.enabled"))
	}
	if c.Kubernetes.Provision.Enabled && !c.Kubernetes.Enabled {
		errs = append(errs, errors.New("sources.kubernetes.provision.enabled: needs sources.kubernetes.enabled"))
	}
	if err := c.Kubernetes.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("sources.kubernetes: %w", err))
	}
	return errs
}

// followed are all folders that are read.
func (c *SourcesConfig) followed() []string {
	if c.Managed == "" {
		return c.Folders
	}
	return append(slices.Clone(c.Folders), c.Managed)
}

// open makes the sources as one; writer is nil without Kubernetes. What was kept
// beside stateFile is read.
func (c *SourcesConfig) open(parser *policy.Parser, stateFile string, logger *slog.Logger) (source.Source, *kube.Writer, error) {
	var sources []source.Source
	if followed := c.followed(); len(followed) > 0 {
		folders, err := folder.New(folder.Config{Folders: followed, KeepFile: stateFile, Logger: logger}, parser)
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, folders)
	}
	if !c.Kubernetes.Enabled {
		return source.Joined{Sources: sources, Logger: logger}, nil, nil
	}
	keep := ""
	if stateFile != "" {
		keep = stateFile + kubernetesSuffix
	}
	kubernetes, err := kube.New(c.Kubernetes, kube.Options{KeepFile: keep, Logger: logger}, parser)
	if err != nil {
		return nil, nil, fmt.Errorf("sources.kubernetes: %w", err)
	}
	writer, err := kube.NewWriter(kubernetes)
	return source.Joined{Sources: append(sources, kubernetes), Logger: logger}, writer, err
}

// tellKubernetes has outcomes written to the status of Kubernetes' objects, by
// the replica that leads, until ctx ends.
func (l *Loop) tellKubernetes(ctx context.Context, writer *kube.Writer) error {
	l.Watch(func(outcome Outcome) { writer.Observe(kubeOutcome(outcome)) })
	return writer.Run(ctx)
}

// provision has proxies run for the Gateways that have fleets of their own, until
// ctx ends.
func (l *Loop) provision(ctx context.Context, provisioner *kube.Provisioner) error {
	l.Watch(func(outcome Outcome) {
		gateways := map[policy.ObjectRef]kube.Placed{}
		ports := map[string][]int32{}
		for i := range outcome.Plan.Ports {
			port := &outcome.Plan.Ports[i]
			ports[port.Fleet] = append(ports[port.Fleet], port.Number)
		}
		for _, object := range outcome.Input.Objects {
			gateway, ok := object.Value.(*gatewayv1.Gateway)
			if !ok {
				continue
			}
			// A fleet of its own it has if it is of a class of Weir's.
			fleet := gatewayFleet(object.Ref)
			if _, served := outcome.Fleets[fleet]; served {
				slices.Sort(ports[fleet])
				gateways[object.Ref] = kube.Placed{Gateway: gateway, Ports: slices.Compact(ports[fleet])}
			}
		}
		provisioner.Observe(gateways)
	})
	return provisioner.Run(ctx)
}

func kubeOutcome(outcome Outcome) kube.Outcome {
	told := kube.Outcome{Plan: outcome.Plan, Fleets: map[string]kube.Fleet{}, FleetOf: outcome.FleetOf, Time: outcome.Time}
	for name := range outcome.Fleets {
		fleet := outcome.Fleets[name]
		next := kube.Fleet{Programmed: fleet.Programmed, Waiting: fleet.Waiting}
		for _, quarantine := range fleet.Quarantined {
			next.Quarantined = append(next.Quarantined, kube.Quarantine{
				Origin: quarantine.Origin, Kept: quarantine.Kept,
				Message: fmt.Sprintf("rejected by %s: %s", quarantine.Node, quarantine.Message),
			})
		}
		told.Fleets[name] = next
	}
	return told
}
