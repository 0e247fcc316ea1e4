package extauthz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/authzexpr"
)

const (
	maxSources    = 16
	maxRoleClaims = 8
)

// effect is what a rule does where it holds.
type effect uint8

const (
	effectDeny effect = iota
	effectAllow
	effectRequire
)

// surroundings compiles what the rules of a route have in common.
func (c *Compiler) surroundings(r *route, source *rulesv1.AuthRoute) error {
	settings := source.GetSettings()
	r.roleClaims, r.behindProxies = settings.GetRoleClaims(), settings.GetClientAddress()
	if len(r.roleClaims) == 0 {
		r.roleClaims = []string{"roles"}
	}
	kind, rest, _ := strings.Cut(routeID(r.id), "/")
	namespace, rest, _ := strings.Cut(rest, "/")
	name, _, _ := strings.Cut(rest, "/")
	r.attributes = authzexpr.Route{ID: routeID(r.id), Kind: kind, Namespace: namespace, Name: name, Hostnames: settings.GetHostnames()}
	var errs []error
	if n := len(r.roleClaims); n > maxRoleClaims {
		errs = append(errs, fmt.Errorf("settings.role_claims: %d are too many; the most is %d", n, maxRoleClaims))
	}
	if store := settings.GetRelationships(); store != nil {
		if c.extensions.Relationships == nil {
			errs = append(errs, errors.New("settings.relationships: this server knows no relationship store"))
		} else if checker, err := c.extensions.Relationships(store); err != nil {
			errs = append(errs, fmt.Errorf("settings.relationships.%w", err))
		} else {
			r.relationships = checker
		}
	}
	if n := len(source.GetMetadata()); n > maxSources {
		return errors.Join(append(errs, fmt.Errorf("metadata: %d are too many; the most is %d", n, maxSources))...)
	}
	names := map[string]bool{}
	for i, metadata := range source.GetMetadata() {
		field := fmt.Sprintf("metadata[%d]", i)
		errs = append(errs, unique(names, field+".name", metadata.GetName()))
		if c.extensions.Metadata == nil {
			errs = append(errs, fmt.Errorf("%s: this server asks no external sources", field))
			continue
		}
		fetcher, err := c.extensions.Metadata(c.environment, metadata)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.%w", field, err))
			continue
		}
		r.readsOf(fetcher.References())
		r.sources = append(r.sources, &metadataSource{name: metadata.GetName(), fetcher: fetcher})
	}
	var err error
	if r.body, err = newBodyReader(source.GetBody()); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.upstream(r, source.GetUpstream()))...)
}

// reads notes what an expression of the route reads, and finds the sources of
// the metadata among it.
func (r *route) reads(references []string, sources *[]*metadataSource) error {
	r.readsOf(references)
	for _, reference := range references {
		name, of := strings.CutPrefix(reference, "metadata")
		if !of {
			continue
		}
		name = strings.TrimPrefix(name, ".")
		i := slices.IndexFunc(r.sources, func(s *metadataSource) bool { return s.name == name })
		switch {
		case name == "": // all of it
			*sources = r.sources
			return nil
		case i < 0:
			return fmt.Errorf("metadata.%s: the route has no source of this name", name)
		case !slices.Contains(*sources, r.sources[i]):
			*sources = append(*sources, r.sources[i])
		}
	}
	return nil
}

func (r *route) readsOf(references []string) {
	for _, reference := range references {
		if reference == "identity" || reference == "identity.roles" {
			r.readsRoles = true
		}
	}
}

func (c *Compiler) rule(previous, set *RouteSet, r *route, field string, source *rulesv1.AuthorizationRule) (rule, error) {
	compiled := rule{name: source.GetName()}
	switch source.GetEffect() {
	case rulesv1.AuthorizationRule_EFFECT_ALLOW:
		compiled.effect = effectAllow
	case rulesv1.AuthorizationRule_EFFECT_DENY:
		if source.GetRequirements() != nil {
			return compiled, fmt.Errorf("%s.requirements: go with allow and require only", field)
		}
	case rulesv1.AuthorizationRule_EFFECT_REQUIRE:
		compiled.effect = effectRequire
		if source.GetRequirements() == nil {
			return compiled, fmt.Errorf("%s.requirements: are required", field)
		}
	default:
		return compiled, fmt.Errorf("%s.effect: %s is neither allow, deny nor require", field, source.GetEffect())
	}
	text := source.GetExpression()
	if text == "" && source.GetRequirements() == nil {
		return compiled, fmt.Errorf("%s.expression: is required", field)
	}
	if text != "" {
		program := set.programs[text]
		if program == nil {
			program = previous.programs[text]
		}
		if program == nil {
			var err error
			if program, err = c.environment.Compile(text); err != nil {
				return compiled, fmt.Errorf("%s.expression: %w", field, err)
			}
		}
		set.programs[text] = program
		compiled.program = program
		if err := r.reads(program.References(), &compiled.sources); err != nil {
			return compiled, fmt.Errorf("%s.expression: %w", field, err)
		}
		compiled.aboutScope = slices.Equal(program.References(), []string{"identity.scopes"})
	}
	var err error
	compiled.requirements, err = c.requirements(r, field+".requirements", source.GetRequirements())
	if compiled.requirements != nil && len(compiled.requirements.roles.all)+len(compiled.requirements.roles.any) > 0 {
		r.readsRoles = true
	}
	return compiled, err
}
