package extauthz

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/authzexpr"
)

// lack is what of its requirements a caller lacks.
type lack uint8

const (
	lackNothing lack = iota
	lackScope
	lackRole
	lackAuthentication
	lackRelationship
)

// requirements are what a rule asks a caller to have; compiled.
type requirements struct {
	scopes, roles textRequirement
	// acr is nil when any is good; maxAge is zero when any age is.
	acr    []string
	maxAge time.Duration
	// user is nil when no relationship is asked for.
	user, relation, object *authzexpr.Template
	// sources are what the templates read.
	sources []*metadataSource
	// scopeChallenge and stepUp are the rest of the challenges.
	scopeChallenge, stepUp string
}

type textRequirement struct{ all, any []string }

func (r *textRequirement) met(list []string) bool {
	for _, wanted := range r.all {
		if !slices.Contains(list, wanted) {
			return false
		}
	}
	if len(r.any) == 0 {
		return true
	}
	for _, wanted := range r.any {
		if slices.Contains(list, wanted) {
			return true
		}
	}
	return false
}

// lacks returns the first requirement that is not met, cheap ones first.
func (a *attempt) lacks(r *requirements, decision *Decision, input *authzexpr.Input) (lack, error) {
	switch {
	case !r.scopes.met(input.Identity.Scopes):
		return lackScope, nil
	case !r.roles.met(input.Identity.Roles):
		return lackRole, nil
	case !a.authenticated(r, decision):
		return lackAuthentication, nil
	case r.user == nil:
		return lackNothing, nil
	}
	if err := a.fetch(r.sources, input); err != nil {
		return lackNothing, err
	}
	var expanded [3]string
	for i, template := range [...]*authzexpr.Template{r.user, r.relation, r.object} {
		text, err := template.Expand(a.ctx, input, relationshipPart)
		if err != nil {
			return lackNothing, Refuse(ReasonRuleError, err)
		}
		expanded[i] = text
	}
	related, err := a.route.relationships.Check(a.ctx, a.call.Now, expanded[0], expanded[1], expanded[2])
	switch {
	case err != nil:
		return lackNothing, Refuse(ReasonSourceUnavailable, fmt.Errorf("relationship: %w", err))
	case !related:
		return lackRelationship, nil
	}
	return lackNothing, nil
}

var errRelationshipPart = errors.New("holds a character that has a meaning in relationships (one of : # @ * or a space)")

// relationshipPart lets no value become another object, a set of users or all of
// them.
func relationshipPart(value string) (string, error) {
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c == 0x7f || strings.IndexByte(":#@*", c) >= 0 {
			return "", errRelationshipPart
		}
	}
	return value, nil
}

// authenticated reports whether how and when the person logged in is enough
// (RFC 9470 section 4). What a token does not say is not enough.
func (a *attempt) authenticated(r *requirements, decision *Decision) bool {
	claims := decision.Identity.Claims
	if len(r.acr) > 0 && !slices.Contains(r.acr, claim(claims, "acr").GetStringValue()) {
		return false
	}
	if r.maxAge == 0 {
		return true
	}
	at := claim(claims, "auth_time").GetNumberValue()
	age := float64(a.call.Now.Unix()) - at
	return at > 0 && age <= r.maxAge.Seconds() && age >= -maxClockSkew.Seconds()
}

// maxClockSkew is how far in the future a login may seem to be.
const maxClockSkew = time.Minute

// refuseLacking denies, and tells the bearer of a token what to get. A caller
// whom nothing identifies is asked to.
func (a *attempt) refuseLacking(decision *Decision, r *requirements, lacks lack) {
	if decision.Identity.Anonymous() && decision.Identity.Claims == nil && a.route.challenge != "" {
		*decision = decision.deny(ReasonCredentialsMissing, nil)
		decision.Challenge, decision.ResponseHeaders = a.route.challenge, a.route.tells
		if a.route.invites {
			a.invite(decision)
		}
		return
	}
	bearer := decision.Identity.Issuer != ""
	switch lacks {
	case lackScope:
		*decision = decision.deny(ReasonInsufficientScope, nil)
		if bearer {
			decision.Challenge = BearerChallenge(a.route.realm, "insufficient_scope", ReasonInsufficientScope.Fault().Message) + r.scopeChallenge
		}
	case lackAuthentication:
		*decision = decision.deny(ReasonInsufficientAuthentication, nil)
		decision.Challenge = BearerChallenge(a.route.realm, "insufficient_user_authentication", ReasonInsufficientAuthentication.Fault().Message) + r.stepUp
	case lackRole:
		*decision = decision.deny(ReasonPermissionDenied, errors.New("the caller lacks a role"))
	default:
		*decision = decision.deny(ReasonPermissionDenied, errors.New("the caller lacks the relationship"))
	}
}

const (
	maxRequired     = 64
	maxRequiredAge  = 365 * 24 * time.Hour
	maxRequiredText = 256
)

// requirements compiles what a rule requires, nil for nothing.
func (c *Compiler) requirements(r *route, field string, source *rulesv1.Requirements) (*requirements, error) {
	if source == nil {
		return nil, nil //nolint:nilnil // nothing is required
	}
	compiled := &requirements{
		scopes: textRequirement{source.GetScopes().GetAllOf(), source.GetScopes().GetAnyOf()},
		roles:  textRequirement{source.GetRoles().GetAllOf(), source.GetRoles().GetAnyOf()},
		acr:    source.GetAuthentication().GetAcrValues(),
		maxAge: source.GetAuthentication().GetMaxAge().AsDuration(),
	}
	var errs []error
	for _, part := range []struct {
		name string
		list []string
	}{
		{"scopes", slices.Concat(compiled.scopes.all, compiled.scopes.any)},
		{"roles", slices.Concat(compiled.roles.all, compiled.roles.any)},
		{"authentication.acr_values", compiled.acr},
	} {
		if len(part.list) > maxRequired {
			errs = append(errs, fmt.Errorf("%s.%s: %d are too many; the most is %d", field, part.name, len(part.list), maxRequired))
		}
		for _, text := range part.list {
			if len(text) > maxRequiredText || part.name != "roles" && !ValidScopes([]string{text}) || text == "" {
				errs = append(errs, fmt.Errorf("%s.%s: %q is not a word of printable ASCII without spaces and quotes", field, part.name, text))
			}
		}
	}
	if compiled.maxAge < 0 || compiled.maxAge > maxRequiredAge {
		errs = append(errs, fmt.Errorf("%s.authentication.max_age: %s is outside 0s to %s", field, compiled.maxAge, maxRequiredAge))
	}
	if asked := slices.Concat(compiled.scopes.all, compiled.scopes.any); len(asked) > 0 {
		compiled.scopeChallenge = `, scope="` + strings.Join(asked, " ") + `"`
	}
	if len(compiled.acr) > 0 {
		compiled.stepUp += `, acr_values="` + strings.Join(compiled.acr, " ") + `"`
	}
	if compiled.maxAge > 0 {
		compiled.stepUp += `, max_age="` + strconv.Itoa(int(compiled.maxAge.Seconds())) + `"`
	}
	errs = append(errs, c.relationship(r, compiled, field+".relationship", source.GetRelationship()))
	return compiled, errors.Join(errs...)
}

func (c *Compiler) relationship(r *route, compiled *requirements, field string, source *rulesv1.RelationshipRequirement) error {
	if source == nil {
		return nil
	}
	if r.relationships == nil {
		return fmt.Errorf("%s: the route has no relationship store", field)
	}
	var errs []error
	for _, part := range []struct {
		name, text string
		into       **authzexpr.Template
	}{
		{"user", source.GetUser(), &compiled.user}, {"relation", source.GetRelation(), &compiled.relation}, {"object", source.GetObject(), &compiled.object},
	} {
		template, err := c.environment.CompileTemplate(part.text)
		if err == nil && part.text == "" {
			err = errors.New("is required")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.%s: %w", field, part.name, err))
			continue
		}
		*part.into = template
		if err := r.reads(template.References(), &compiled.sources); err != nil {
			errs = append(errs, fmt.Errorf("%s.%s: %w", field, part.name, err))
		}
	}
	return errors.Join(errs...)
}
