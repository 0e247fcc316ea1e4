package policy

// stack is a path through the hierarchy of targets. Targets without policies are
// 0, so that routes which the same policies reach share one.
type stack struct {
	rule, route int32
	listener    *listener
}

// policySet is what the policies of every kind come to in one place. It is shared
// by the routes of a stack.
type policySet struct {
	kinds [policyKindCount]effective
	// shadow is what the AuthPolicies would come to with those in the shadow, nil
	// when there are none.
	shadow   *effective
	uses     []PolicyUse
	listener *listener
	// what is compiled from kinds, made when first asked for
	auth    *compiledAuth
	limits  []Limit
	cors    *CORS
	traffic *trafficUse
	// extensions are those of kindExtensions, and extended that they were looked up
	extensions []Extension
	extended   bool
	done       bool
}

// policiesOf is what is in effect for a rule of a route on a listener.
func (r *resolver) policiesOf(rule *ruleSource, l *listener) *policySet {
	key := targetKey{kind: rule.object.Ref.Kind, namespace: rule.object.Ref.Namespace, name: rule.object.Ref.Name}
	var targets [levelCount]*target
	targets[levelRoute] = r.policies.targets[key]
	if rule.name != "" {
		key.section = rule.name
		targets[levelRule] = r.policies.targets[key]
	}
	return r.policySet(targets, l, true)
}

// policiesAt is what is in effect for a listener itself, for the kinds that are
// about connections.
func (r *resolver) policiesAt(l *listener) *policySet {
	return r.policySet([levelCount]*target{}, l, false)
}

// policySet makes a set, or takes the one that was made before. count says that a
// route is reached.
func (r *resolver) policySet(targets [levelCount]*target, l *listener, count bool) *policySet {
	at := stack{listener: l}
	if targets[levelRule] != nil {
		at.rule = targets[levelRule].id
	}
	if targets[levelRoute] != nil {
		at.route = targets[levelRoute].id
	}
	set, ok := r.policies.sets[at]
	if !ok {
		gateway := targetKey{kind: kindGateway, namespace: l.gateway.Ref.Namespace, name: l.gateway.Ref.Name}
		targets[levelGateway] = r.policies.targets[gateway]
		if l.set != nil {
			gateway = targetKey{kind: kindListenerSet, namespace: l.set.Ref.Namespace, name: l.set.Ref.Name}
			targets[levelSet] = r.policies.targets[gateway]
		}
		gateway.section = l.name
		targets[levelListener] = r.policies.targets[gateway]
		set = newPolicySet(targets)
		set.listener = l
		r.policies.sets[at] = set
	}
	if count && !set.done {
		set.done = true
		set.account(l, kindAuth, kindLimits, kindTraffic, kindExtensions, kindHeaders)
		set.accountShadows(l)
	}
	return set
}

func newPolicySet(targets [levelCount]*target) *policySet {
	set := &policySet{}
	for kind := range set.kinds {
		var levels [levelCount][]*statement
		var out []PolicyUse
		for at, target := range targets {
			if target == nil {
				continue
			}
			levels[at] = target.standing[kind]
			for _, lost := range target.out[kind] {
				out = append(out, lost.use(level(at))) //nolint:gosec // at most levelCount
			}
		}
		set.kinds[kind] = mergeLevels(levels)
		for _, layer := range set.kinds[kind].layers {
			if use, ok := layer.use(); ok {
				set.uses = append(set.uses, use)
			}
		}
		set.uses = append(set.uses, out...)
	}
	set.shadow = inShadow(targets)
	set.uses = append(set.uses, set.shadow.shadowUses()...)
	return set
}

func (t tie) use(at level) PolicyUse {
	return PolicyUse{
		Policy: t.loser.origin, Level: at.String(), Overrides: t.loser.overrides, Effect: PolicyOverridden, By: []Origin{t.by.origin},
		Reason: t.reason(),
	}
}

func (t tie) reason() string {
	return loss{&layer{statement: t.by}, sameTarget(t.loser, t.by)}.reason()
}

// why is the winner's right, as a clause after its name.
func (t tie) why() string {
	if sameTarget(t.loser, t.by) == stronger {
		return "which overrides"
	}
	return "which comes first (the older, then the first by namespace and name)"
}
