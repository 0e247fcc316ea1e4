package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
	"weir.dev/kit/fault"
	"weir.dev/policy"
)

// proposal is what documents would make of the running policy.
type proposal struct {
	// documents are the objects proposed, input what all together would be.
	documents []*policy.Object
	input     policy.Input
	plan      *policy.Plan
	// prune are the running objects to delete.
	prune []policy.ObjectRef
	// problems of the proposed policy; come and gone are those that are new and
	// those that are mended.
	problems, come, gone policy.Problems
}

// propose reads documents and puts them in the place of running objects of the
// same names.
func (s *Server) propose(state *State, documents []*adminv1.Document, prune []string, whole bool) (*proposal, error) {
	if len(documents) > maxDocuments || len(prune) > maxDocuments {
		return nil, invalid("documents", "%d files and %d names to delete; the most is %d of each", len(documents), len(prune), maxDocuments)
	}
	p := &proposal{}
	place, problems := s.parse(p, documents)
	remove := map[policy.ObjectRef]bool{}
	for _, name := range prune {
		ref, err := runningRef(state.Input.Objects, name)
		if err != nil {
			return nil, err
		}
		if !remove[ref] {
			remove[ref] = true
			p.prune = append(p.prune, ref)
		}
	}
	p.input = policy.Input{Closings: state.Input.Closings, FleetOf: state.Input.FleetOf, Published: state.Input.Published, Provisioned: state.Input.Provisioned}
	for _, object := range state.Input.Objects {
		switch {
		case place[object.Ref] != nil || remove[object.Ref]:
		case whole && s.applied(object):
		default:
			p.input.Objects = append(p.input.Objects, object)
		}
	}
	p.input.Objects = append(p.input.Objects, p.documents...)
	var resolved policy.Problems
	p.plan, resolved = policy.Resolve(p.input)
	p.problems = append(problems, resolved...)
	p.problems.Sort()
	_, before := policy.Resolve(state.Input)
	p.come, p.gone = policy.DiffProblems(before, p.problems)
	return p, nil
}

// parse reads documents, each object once.
func (s *Server) parse(p *proposal, documents []*adminv1.Document) (map[policy.ObjectRef]*policy.Object, policy.Problems) {
	place := map[policy.ObjectRef]*policy.Object{}
	var problems policy.Problems
	for _, document := range documents {
		for _, parsed := range s.options.Parser.Parse(document.GetFile(), []byte(document.GetContent())) {
			problems = append(problems, parsed.Problems...)
			if parsed.Object == nil {
				continue
			}
			if first := place[parsed.Object.Ref]; first != nil {
				problems = append(problems, policy.Problem{
					Origin: parsed.Object.Origin("metadata.name"), Code: policy.CodeDuplicateObject, Severity: policy.SeverityError,
					Message: "is already defined at " + first.Origin("").String(),
				})
				continue
			}
			place[parsed.Object.Ref] = parsed.Object
			p.documents = append(p.documents, parsed.Object)
		}
	}
	return place, problems
}

// applied reports whether an object is one that the store holds.
func (s *Server) applied(object *policy.Object) bool {
	return s.options.Store != nil && object.File == s.options.Store.Path()
}

// runningRef is the running object that a name to prune means. Its kind may be
// written in any case, as weir get does.
func runningRef(objects []*policy.Object, name string) (policy.ObjectRef, error) {
	ref, err := refFrom(name)
	if err != nil {
		return ref, err
	}
	for _, object := range objects {
		if strings.EqualFold(object.Ref.Kind, ref.Kind) && object.Ref.Namespace == ref.Namespace && object.Ref.Name == ref.Name {
			return object.Ref, nil
		}
	}
	return ref, invalid("prune", "there is no %s", ref)
}

// refFrom reads "Kind/namespace/name", or "Kind/name" of the default namespace.
func refFrom(text string) (policy.ObjectRef, error) {
	parts := strings.Split(text, "/")
	if len(parts) == 2 {
		parts = []string{parts[0], policy.DefaultNamespace, parts[1]}
	}
	if len(parts) != 3 || slices.Contains(parts, "") {
		return policy.ObjectRef{}, invalid("prune", "%q is not Kind/namespace/name", text)
	}
	return policy.ObjectRef{Kind: parts[0], Namespace: parts[1], Name: parts[2]}, nil
}

// Diff implements the service.
func (s *Server) Diff(ctx context.Context, request *adminv1.DiffRequest) (*adminv1.DiffResponse, error) {
	state, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.propose(&state, request.GetDocuments(), request.GetPrune(), request.GetWhole())
	if err != nil {
		return nil, err
	}
	before, err := s.compile(state.Plan)
	if err != nil {
		return nil, err
	}
	after, err := s.compile(p.plan)
	if err != nil {
		return nil, fault.New(codes.InvalidArgument, reasonInvalid, "the proposed policy cannot be compiled: %v", err)
	}
	resources, err := envoy.Diff(before, after, request.GetResourceText())
	if err != nil {
		return nil, err
	}
	out := &adminv1.DiffResponse{}
	err = convert(map[string]any{
		"objects": policy.DiffObjects(state.Input.Objects, p.input.Objects), "served": policy.Diff(state.Plan, p.plan), "resources": resources,
	}, out)
	out.Problems, out.NewProblems, out.Mended = problemsOf(p.problems), problemsOf(p.come), problemsOf(p.gone)
	out.OldPlan, out.NewPlan = state.Plan.Digest, p.plan.Digest
	return out, err
}

// compile makes the resources of all fleets; those of a named one are called
// after it.
func (s *Server) compile(plan *policy.Plan) (envoy.Set, error) {
	all := envoy.Set{}
	for _, fleet := range fleetsOf(plan) {
		set, err := envoy.Compile(plan, s.options.Running.Options(fleet))
		if err != nil {
			return nil, err
		}
		all.AddAll(fleet, set)
	}
	return all, nil
}

// maxWait bounds how long Apply waits for proxies.
const maxWait = 5 * time.Minute

// Apply implements the service.
func (s *Server) Apply(ctx context.Context, request *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	if _, err := s.state(ctx); err != nil {
		return nil, err
	}
	if s.options.Store == nil {
		return nil, fault.New(codes.FailedPrecondition, reasonNoFolder, "this control plane has no folder for applied objects (sources.managed)")
	}
	wait := request.GetWait().AsDuration()
	if wait < 0 || wait > maxWait {
		return nil, invalid("wait", "%s is outside 0s to %s", wait, maxWait)
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	state, err := s.settled(ctx, request.GetDocuments()) // the one that the last Apply left
	if err != nil {
		return nil, err
	}
	p, err := s.propose(&state, request.GetDocuments(), request.GetPrune(), false)
	if err != nil {
		return nil, err
	}
	stored, err := s.merge(&state, p)
	if err != nil {
		return nil, err
	}
	if err := refuseBroken(p); err != nil {
		return nil, err
	}
	out := &adminv1.ApplyResponse{Plan: p.plan.Digest, Problems: problemsOf(p.come)}
	if err := convert(map[string]any{"objects": policy.DiffObjects(state.Input.Objects, p.input.Objects)}, out); err != nil {
		return nil, err
	}
	out.Problems, out.Plan = problemsOf(p.come), p.plan.Digest
	if request.GetDryRun() {
		return out, nil
	}
	if err := s.options.Store.Save(stored); err != nil {
		return nil, fault.New(codes.ResourceExhausted, reasonNotApplied, "nothing was applied: %v", err).WithCause(err)
	}
	s.options.Logger.InfoContext(ctx, "objects applied", "objects", len(p.documents), "pruned", len(request.GetPrune()), "plan", p.plan.Digest)
	s.await(ctx, out, stored, wait)
	if state := s.options.Running.State(); out.GetProgrammed() {
		if why := closedRoute(&state, p.documents); why != "" {
			out.Programmed, out.Waiting = false, why
		}
	}
	return out, nil
}

// leavingWithin bounds how long a followed folder takes to let go of an object.
const leavingWithin = 5 * time.Second

// settled is the state once none of the documents' objects is about to go: one that
// just left a followed folder would be taken for being there already, and be lost.
func (s *Server) settled(ctx context.Context, documents []*adminv1.Document) (State, error) {
	proposed, _ := s.parse(&proposal{}, documents[:min(len(documents), maxDocuments)])
	leaving := func(state State) *policy.Object {
		for _, object := range state.Input.Objects {
			if proposed[object.Ref] != nil && !s.applied(object) && folder.Left(s.options.Parser, object) {
				return object
			}
		}
		return nil
	}
	state, err := s.state(ctx)
	if err != nil || len(documents) > maxDocuments || leaving(state) == nil {
		return state, err
	}
	waiting, cancel := context.WithTimeout(ctx, leavingWithin)
	defer cancel()
	_ = s.options.Running.Await(waiting, func(state State) bool { return leaving(state) == nil })
	if state, err = s.state(ctx); err != nil {
		return state, err
	}
	if object := leaving(state); object != nil {
		return state, fault.New(codes.Aborted, reasonNotApplied,
			"nothing was applied: %s has left %s, which the control plane has not read yet: apply again", object.Ref, object.File)
	}
	return state, nil
}

// refuseBroken is an error that names what is wrong with what is proposed.
func refuseBroken(p *proposal) error {
	broken := p.come.Errors()
	if len(broken) == 0 {
		return nil
	}
	many := "a new error"
	if len(broken) > 1 {
		many = fmt.Sprintf("%d new errors, such as", len(broken))
	}
	err := fault.New(codes.InvalidArgument, reasonNotApplied, "nothing was applied: the policy would have %s: %s", many, broken[0].Error())
	const most = 20
	broken = broken[:min(len(broken), most)]
	for _, problem := range broken {
		err = err.WithField(problem.String(), fmt.Sprintf("%s [%s]", problem.Message, problem.Code))
	}
	return err.WithDetail(&adminv1.ListProblemsResponse{Problems: problemsOf(broken)})
}

// merge is what the store is to hold: what it held, without what is pruned, and
// the documents. What another source defines is not overridden: whoever edits it
// there would wonder why nothing happens.
func (s *Server) merge(state *State, p *proposal) ([]*policy.Object, error) {
	held, err := s.options.Store.Load()
	if err != nil {
		return nil, fault.New(codes.FailedPrecondition, reasonNotApplied, "nothing was applied: %v", err).WithCause(err)
	}
	kept := map[policy.ObjectRef]*policy.Object{}
	for _, object := range held {
		kept[object.Ref] = object
	}
	followed := map[policy.ObjectRef]*policy.Object{}
	for _, object := range state.Input.Objects {
		if !s.applied(object) {
			followed[object.Ref] = object
		}
	}
	for _, object := range p.documents {
		if other := followed[object.Ref]; other != nil {
			if len(policy.DiffObjects([]*policy.Object{other}, []*policy.Object{object})) == 0 {
				continue // as it is there already
			}
			return nil, fault.New(codes.FailedPrecondition, reasonFollowed,
				"nothing was applied: %s is followed at %s: edit it there [%s]", object.Ref, other.Origin("").String(), policy.CodeFollowed)
		}
		kept[object.Ref] = object
	}
	for _, ref := range p.prune {
		if kept[ref] == nil {
			return nil, fault.New(codes.FailedPrecondition, reasonFollowed,
				"nothing was applied: %s was not applied, so it cannot be deleted here: remove it from %s [%s]", ref, followed[ref].Origin("").String(), policy.CodeFollowed)
		}
		delete(kept, ref)
	}
	objects := make([]*policy.Object, 0, len(kept))
	for _, object := range kept {
		objects = append(objects, object)
	}
	return objects, nil
}

// await waits until the proxies serve what is stored, and says how far they are.
func (s *Server) await(ctx context.Context, out *adminv1.ApplyResponse, stored []*policy.Object, wait time.Duration) {
	want := map[policy.ObjectRef]*policy.Object{}
	for _, object := range stored {
		want[object.Ref] = object
	}
	taken := func(state State) bool {
		found := 0
		for _, object := range state.Input.Objects {
			if !s.applied(object) {
				continue
			}
			wanted := want[object.Ref]
			if wanted == nil || len(policy.DiffObjects([]*policy.Object{wanted}, []*policy.Object{object})) > 0 {
				return false
			}
			found++
		}
		return found == len(want)
	}
	waiting := "the control plane has not read it yet"
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	_ = s.options.Running.Await(ctx, func(state State) bool { // its error is the timeout, which waiting explains
		if !taken(state) {
			return false
		}
		out.Programmed, waiting = state.programmed()
		return out.GetProgrammed()
	})
	state := s.options.Running.State()
	if !out.GetProgrammed() {
		out.Waiting = waiting
	}
	_, resolved := policy.Resolve(state.Input)
	come, _ := policy.DiffProblems(resolved, state.Problems)
	for _, problem := range come { // of the rollout: what proxies rejected
		if want[problem.Object] != nil {
			out.Problems = append(out.Problems, problemOf(problem))
		}
	}
}
