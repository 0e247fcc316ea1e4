package admin

import (
	"slices"
	"strings"

	limitsv1 "weir.dev/api/gen/weir/limits/v1"
	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// whole refuses a question about a counter that no request has: a limit that
// counts by the consumer has one for each, and none for all together.
func (s *Server) whole(rule string, entries []*limitsv1.Entry) error {
	plan := s.options.Running.State().Plan
	if plan == nil {
		return nil // What is counted by is not known; the servers know the rule or not.
	}
	if missing := missingEntries(plan, rule, entries); len(missing) > 0 {
		return invalid("entries", "%s is counted for each %s; say which, such as %s=VALUE", rule, strings.Join(missing, " and "), missing[0])
	}
	return nil
}

// missingEntries are the names of what a limit counts separately, by which entries
// do not say whose counter is meant. A rule that is not in the Plan lacks none.
func missingEntries(plan *policy.Plan, rule string, entries []*limitsv1.Entry) (missing []string) {
	limit := limitOf(plan, rule)
	if limit == nil {
		return nil
	}
	for _, by := range limit.By {
		name := entryOf(by)
		if !slices.ContainsFunc(entries, func(entry *limitsv1.Entry) bool { return entry.GetName() == name }) {
			missing = append(missing, name)
		}
	}
	return missing
}

// entryOf is the entry that Envoy sends for what is counted separately.
func entryOf(by v1alpha1.CountBy) string {
	switch by.Type {
	case v1alpha1.CountByClientIP:
		return "remote_address"
	case v1alpha1.CountByHeader:
		return "header." + strings.ToLower(by.Header)
	default:
		return strings.ToLower(string(by.Type))
	}
}

func limitOf(plan *policy.Plan, rule string) *policy.Limit {
	for i := range plan.Ports {
		for j := range plan.Ports[i].Chains {
			for k := range plan.Ports[i].Chains[j].Hosts {
				routes := plan.Ports[i].Chains[j].Hosts[k].Routes
				for n := range routes {
					for m := range routes[n].Limits {
						if routes[n].Limits[m].Rule == rule {
							return &routes[n].Limits[m]
						}
					}
				}
			}
		}
	}
	return nil
}
