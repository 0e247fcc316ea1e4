package admin

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/kit/fault"
	"weir.dev/policy"
)

// ListObjects implements the service.
func (s *Server) ListObjects(ctx context.Context, request *adminv1.ListObjectsRequest) (*adminv1.ListObjectsResponse, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	size := int(cmp.Or(request.GetPageSize(), defaultPage))
	if size < 1 {
		return nil, invalid("page_size", "%d is negative", size)
	}
	size = min(size, maxPage)
	after, err := base64.RawURLEncoding.DecodeString(request.GetPageToken())
	if err != nil {
		return nil, invalid("page_token", "is not one of an earlier answer")
	}
	out := &adminv1.ListObjectsResponse{}
	for _, object := range sortedObjects(state.Input.Objects) {
		name := nameOf(object.Ref)
		if !strings.EqualFold(request.GetKind(), object.Ref.Kind) && request.GetKind() != "" || name <= string(after) {
			continue
		}
		if len(out.Objects) == size {
			out.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(out.GetObjects()[size-1].GetName()))
			break
		}
		out.Objects = append(out.Objects, s.summary(&state, object))
	}
	return out, nil
}

// sortedObjects are in order of their names, each once.
func sortedObjects(objects []*policy.Object) []*policy.Object {
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b *policy.Object) int { return cmp.Compare(nameOf(a.Ref), nameOf(b.Ref)) })
	return slices.CompactFunc(sorted, func(a, b *policy.Object) bool { return a.Ref == b.Ref })
}

func nameOf(ref policy.ObjectRef) string {
	return "objects/" + strings.ToLower(ref.Kind) + "/" + ref.Namespace + "/" + ref.Name
}

// summary is an object without its document and routes.
func (s *Server) summary(state *State, object *policy.Object) *adminv1.Object {
	out := &adminv1.Object{
		Name: nameOf(object.Ref), Origin: originOf(object.Origin("")), Targets: targetsOf(object),
		Conditions: conditionsOf(state, object.Ref),
	}
	if created := object.Value.GetCreationTimestamp(); !created.IsZero() {
		out.CreateTime = timestamppb.New(created.Time)
	}
	for _, problem := range state.Problems {
		if problem.Object == object.Ref && len(out.Problems) < maxAttachedRoutes {
			out.Problems = append(out.Problems, problemOf(problem))
		}
	}
	return out
}

// GetObject implements the service.
func (s *Server) GetObject(ctx context.Context, request *adminv1.GetObjectRequest) (*adminv1.Object, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	for _, object := range state.Input.Objects {
		if !strings.EqualFold(nameOf(object.Ref), request.GetName()) {
			continue
		}
		out := s.summary(&state, object)
		out.Attached = attachedTo(&state, object.Ref)
		out.Routes = routesOf(state.Plan, object.Ref)
		document := &adminv1.Resource{}
		if err := convert(map[string]any{"body": policy.Redacted(object)}, document); err != nil {
			return nil, err
		}
		out.Document = document.GetBody()
		return out, nil
	}
	return nil, fault.New(codes.NotFound, reasonNotFound, "there is no object named %s", request.GetName())
}

// targetsOf is what a route or policy is attached to, as it is written.
func targetsOf(object *policy.Object) []string {
	spec, _ := policy.Redacted(object)["spec"].(map[string]any)
	var out []string
	for _, field := range []string{"parentRefs", "parentRef", "targetRefs"} {
		list, _ := spec[field].([]any)
		if one, ok := spec[field].(map[string]any); ok {
			list = []any{one}
		}
		for _, entry := range list {
			ref, _ := entry.(map[string]any)
			text := func(key string) string { value, _ := ref[key].(string); return value }
			target := cmp.Or(text("kind"), "Gateway") + "/" + text("name")
			if section := text("sectionName"); section != "" {
				target += "/" + section
			}
			out = append(out, target)
		}
	}
	return out
}

// attachedTo lists the routes and policies that name an object.
func attachedTo(state *State, ref policy.ObjectRef) []*adminv1.Origin {
	var out []*adminv1.Origin
	for _, object := range sortedObjects(state.Input.Objects) {
		for _, target := range targetsOf(object) {
			kind, rest, _ := strings.Cut(target, "/")
			name, _, _ := strings.Cut(rest, "/")
			if kind == ref.Kind && name == ref.Name && len(out) < maxAttachedRoutes {
				out = append(out, originOf(object.Origin("")))
				break
			}
		}
	}
	return out
}

// routesOf lists the routes that an object makes or, as a policy, reaches, or,
// as a Backend, serves.
func routesOf(plan *policy.Plan, ref policy.ObjectRef) []*adminv1.RoutePolicies {
	var out []*adminv1.RoutePolicies
	eachRoute(plan, func(route *policy.Route) {
		if len(out) == maxAttachedRoutes || !concerns(route, ref) {
			return
		}
		entry := &adminv1.RoutePolicies{Route: route.ID, Origin: originOf(route.Origin), Match: route.Match.Text(route.GRPC)}
		for _, use := range route.Policies {
			converted := &adminv1.PolicyUse{
				Policy: originOf(use.Policy), Level: use.Level, Overrides: use.Overrides, Effect: string(use.Effect), Reason: use.Reason,
			}
			for _, by := range use.By {
				converted.By = append(converted.By, originOf(by))
			}
			entry.Policies = append(entry.Policies, converted)
		}
		out = append(out, entry)
	})
	return out
}

func eachRoute(plan *policy.Plan, visit func(*policy.Route)) {
	for i := range plan.Ports {
		for j := range plan.Ports[i].Chains {
			for k := range plan.Ports[i].Chains[j].Hosts {
				routes := plan.Ports[i].Chains[j].Hosts[k].Routes
				for l := range routes {
					visit(&routes[l])
				}
			}
		}
	}
}

func concerns(route *policy.Route, ref policy.ObjectRef) bool {
	if route.Origin.Object == ref {
		return true
	}
	if slices.ContainsFunc(route.Policies, func(use policy.PolicyUse) bool { return use.Policy.Object == ref }) {
		return true
	}
	return ref.Kind == "Backend" && slices.ContainsFunc(route.Backends, func(b policy.WeightedBackend) bool {
		return b.Backend == ref.Namespace+"/"+ref.Name
	})
}
