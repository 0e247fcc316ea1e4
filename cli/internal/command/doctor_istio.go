package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/cli/internal/doctor"
	"weir.dev/mesh/apply"
	"weir.dev/mesh/istio"
	"weir.dev/mesh/probe"
)

// meshPatient is a mesh that the doctor looks at.
type meshPatient struct {
	istio   istioOptions
	cluster clusterOptions
	reach   reachOptions
}

func (p *meshPatient) validate(paths []string, others string) error {
	if err := p.istio.validate(); err != nil {
		return err
	}
	switch istio := p.istio.target == targetIstio; {
	case !istio && len(paths) > 0:
		return usageError{fmt.Errorf("weir doctor takes PATHs with --target istio only; %q is one", paths[0])}
	case !istio && p.cluster != (clusterOptions{}):
		return usageError{errors.New("--kubeconfig, --context and --set go with --target istio")}
	case istio && len(paths) == 0:
		return usageError{errors.New("name the policy folders or files that were applied")}
	case istio && others != "":
		return usageError{errors.New("--dir and --envoy do not go with --target istio")}
	}
	return nil
}

// examineIstio looks at the mesh that a policy was applied to. It changes nothing.
func (a *App) examineIstio(ctx context.Context, paths []string, p meshPatient) ([]doctor.Finding, error) {
	request, refused, err := a.requestForIstio(paths, p.istio, p.cluster.set)
	if err != nil {
		return nil, err
	}
	if refused != nil {
		var findings []doctor.Finding
		for _, problem := range refused.Problems.Errors() {
			findings = append(findings, doctor.Finding{Check: "policy", Code: string(problem.Code), Level: doctor.Error, Message: problem.Error(), Fix: "mend the policy"})
		}
		return findings, nil
	}
	cluster, config, err := a.istioCluster(p.cluster)
	if err != nil {
		return nil, err
	}
	mesh, err := p.istio.mesh(config, p.reach)
	if err != nil {
		return nil, err
	}
	return examineMesh(ctx, cluster, mesh, request)
}

func examineMesh(ctx context.Context, cluster apply.Cluster, mesh *probe.Mesh, request apply.Request) ([]doctor.Finding, error) {
	filters, routes, rules, err := apply.Expected(request.Objects)
	if err != nil {
		return nil, err
	}
	hindrances, notes, err := mesh.Ready(ctx, request.CheckTimeout)
	findings := lines("mesh", doctor.Error, "mend the mesh's configuration, see docs/guides/istio.md", hindrances, err,
		"istiod and gateways are ready; the extension provider is there and fails closed")
	findings = append(findings, lines("extauthz", doctor.Error, "mend it, see docs/guides/istio.md", notes, nil, "")...)
	if len(hindrances) > 0 || err != nil {
		return findings, nil
	}
	var ports []int32
	for _, port := range routes {
		ports = append(ports, port.Port)
	}
	if judges := judging(request.Objects); len(judges) > 0 {
		lacking, err := mesh.Judges(ctx, ports, judges)
		findings = append(findings, lines("tokens", doctor.Error, "apply the policy", lacking, err, "every gateway judges tokens, and refuses, where Istio decides by itself")...)
		rivals, err := mesh.Rivals(ctx, ports, judges)
		findings = append(findings, lines("issuers", doctor.Error, "take the gateway's labels out of the other's selector", rivals, err, "nobody else gives keys of their issuers")...)
	}
	if rules != nil {
		open, err := mesh.Guards(ctx, ports)
		findings = append(findings, lines("guard", doctor.Error, "apply the policy: the AuthorizationPolicy weir-extauthz says it; look for EnvoyFilters of others", open, err,
			"every gateway asks extauthz on every port, and refuses when it does not answer")...)
		if pods, err := mesh.ExtAuthz(ctx); err == nil && len(pods) > 0 { // a note says why there is none
			stale, err := mesh.Stale(ctx, rules)
			findings = append(findings, lines("rules", doctor.Error, "apply the policy; look at extauthz's log if it stays so", stale, err, "extauthz decides by the rules of this policy")...)
		}
	}
	lacking, err := mesh.Unserved(ctx, filters, routes)
	findings = append(findings, lines("gateways", doctor.Error, "apply the policy; if it stays so, another EnvoyFilter is in the way, or this Istio is too new", lacking, err,
		fmt.Sprintf("every gateway has every route, and every patch of %s", plural(len(filters), "EnvoyFilter")))...)
	drift, err := differing(ctx, cluster, request)
	findings = append(findings, lines("drift", doctor.Warning, "see weir plan --target istio, and apply", drift, err, "the cluster has what the policy says")...)
	strays, err := apply.Strays(ctx, cluster, request.Options)
	var names []string
	for _, stray := range strays {
		names = append(names, stray.String()+" is labelled as Weir's and is of no set, so that nothing will ever delete it")
	}
	findings = append(findings, lines("strays", doctor.Warning, "delete it, or take it over with weir apply --target istio --force-conflicts", names, err, "there are none")...)
	return findings, nil
}

// judging are the objects by which Istio decides by itself, if there are any.
func judging(objects []istio.Object) []*unstructured.Unstructured {
	var found []*unstructured.Unstructured
	if !slices.ContainsFunc(objects, func(o istio.Object) bool { return o.Kind == "RequestAuthentication" }) {
		return nil
	}
	for i := range objects {
		if kind := objects[i].Kind; kind == "RequestAuthentication" || kind == "AuthorizationPolicy" {
			found = append(found, objects[i].Unstructured())
		}
	}
	return found
}

// differing are the objects that are not as the policy says.
func differing(ctx context.Context, cluster apply.Cluster, request apply.Request) ([]string, error) {
	result, err := apply.Plan(ctx, cluster, request)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, problem := range result.Problems {
		found = append(found, problem.Error())
	}
	for i := range result.Objects {
		outcome := &result.Objects[i]
		var owners []string
		for _, conflict := range outcome.Conflicts {
			owners = append(owners, cmp.Or(conflict.Field, "the object")+" belongs to "+conflict.Owner)
		}
		text := map[string]string{apply.Created: "is not there", apply.Changed: "is otherwise", apply.Deleted: "is there, and the policy does not hold it any more"}[outcome.Action]
		if len(owners) > 0 {
			text = cmp.Or(text, "is as it should be") + "; " + strings.Join(owners, ", ")
		}
		if text != "" {
			found = append(found, outcome.String()+" "+text)
		}
	}
	return found, nil
}

// lines makes a finding of each line, or one that all is well, or that it cannot be
// told.
func lines(check string, level doctor.Level, fix string, found []string, err error, well string) []doctor.Finding {
	if err != nil {
		return []doctor.Finding{{Check: check, Level: doctor.Error, Message: "it cannot be told: " + err.Error(), Fix: "see the message"}}
	}
	if len(found) == 0 && well != "" {
		return []doctor.Finding{{Check: check, Level: doctor.OK, Message: well}}
	}
	var findings []doctor.Finding
	for _, line := range found {
		findings = append(findings, doctor.Finding{Check: check, Level: level, Message: line, Fix: fix})
	}
	return findings
}
