package mtls

import (
	"cmp"
	"slices"
	"strings"
)

// Row is what is in force for a namespace, or for a workload of it.
type Row struct {
	Namespace string `json:"namespace"`
	// Workload is "" in the row of the namespace itself.
	Workload string `json:"workload,omitempty"`
	// Pods run, of which those with Sidecars do what the mode says.
	Pods     int `json:"pods"`
	Sidecars int `json:"sidecars"`
	Setting
}

// Rows are the namespaces in which there is a sidecar or a policy, and their
// workloads, sorted. The workloads of others would do nothing by any mode.
func Rows(state State) []Row {
	meshed := map[string]bool{}
	for i := range state.Policies.All {
		meshed[state.Policies.All[i].Namespace] = true
	}
	for _, pod := range state.Pods {
		if pod.Running && pod.Sidecar != "" {
			meshed[pod.Namespace] = true
		}
	}
	type key struct{ namespace, workload string }
	rows := map[key]*Row{}
	for namespace := range meshed {
		rows[key{namespace, ""}] = &Row{Namespace: namespace, Setting: state.Policies.Effective(namespace, nil)}
	}
	for _, pod := range state.Pods {
		if !pod.Running || pod.Gateway || !meshed[pod.Namespace] {
			continue
		}
		at := key{pod.Namespace, cmp.Or(pod.Workload, "Pod "+pod.Name)}
		if rows[at] == nil {
			rows[at] = &Row{Namespace: at.namespace, Workload: at.workload, Setting: state.Policies.Effective(pod.Namespace, pod.Labels)}
		}
		for _, row := range []*Row{rows[at], rows[key{pod.Namespace, ""}]} {
			row.Pods++
			if pod.Sidecar != "" {
				row.Sidecars++
			}
		}
	}
	var all []Row
	for _, row := range rows {
		all = append(all, *row)
	}
	slices.SortFunc(all, func(a, b Row) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Workload, b.Workload))
	})
	return all
}
