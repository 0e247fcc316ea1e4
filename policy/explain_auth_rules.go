package policy

import (
	"fmt"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// explainRequirements is what a rule asks the caller to have, in words.
func explainRequirements(r *rulesv1.Requirements) []string {
	var words []string
	for _, part := range []struct {
		name string
		text *rulesv1.TextRequirement
	}{{"scope", r.GetScopes()}, {"role", r.GetRoles()}} {
		if all := part.text.GetAllOf(); len(all) > 0 {
			words = append(words, fmt.Sprintf("every %s of: %s", part.name, strings.Join(all, ", ")))
		}
		if some := part.text.GetAnyOf(); len(some) > 0 {
			words = append(words, fmt.Sprintf("a %s of: %s", part.name, strings.Join(some, ", ")))
		}
	}
	login := r.GetAuthentication()
	if acr := login.GetAcrValues(); len(acr) > 0 {
		words = append(words, "a login of class: "+strings.Join(acr, ", "))
	}
	if age := login.GetMaxAge(); age != nil {
		words = append(words, "a login in the last "+age.AsDuration().String())
	}
	if relationship := r.GetRelationship(); relationship != nil {
		words = append(words, fmt.Sprintf("the relationship %s %s %s", relationship.GetUser(), relationship.GetRelation(), relationship.GetObject()))
	}
	return words
}

// explainReads is what rules ask beside the request; no secret is among it.
func explainReads(route *authRoute) []string {
	var words []string
	for _, source := range route.GetMetadata() {
		fails := "refused without an answer"
		if source.GetDefaultValue() != nil {
			fails = "a default without an answer"
		}
		words = append(words, fmt.Sprintf("metadata.%s from %s%s, %s", source.GetName(), source.GetUrl(), source.GetPath(), fails))
	}
	if store := route.GetSettings().GetRelationships(); store != nil {
		words = append(words, "relationships from "+store.GetUrl()+", store "+store.GetStoreId())
	}
	if body := route.GetBody(); body != nil {
		form := "JSON"
		if len(body.GetDescriptorSet()) > 0 {
			form = "JSON or gRPC"
		}
		words = append(words, fmt.Sprintf("the body, %s of at most %d bytes", form, body.GetMaxBytes()))
	}
	return words
}

// explainUpstream is what the service is told, nil where nothing is written.
func explainUpstream(upstream *rulesv1.Upstream) []string {
	if upstream == nil {
		return nil
	}
	headers := make([]string, len(upstream.GetIdentityHeaders()))
	for i, name := range upstream.GetIdentityHeaders() {
		headers[i] = "x-weir-" + name
	}
	words := []string{"identity headers: " + strings.Join(headers, ", ")}
	if len(headers) == 0 {
		words[0] = "no identity headers"
	}
	for _, header := range upstream.GetClaimHeaders() {
		words = append(words, fmt.Sprintf("%s: claim %s", header.GetHeader(), header.GetClaim()))
	}
	if assertion := upstream.GetAssertion(); assertion != nil {
		words = append(words, fmt.Sprintf("%s: a signed assertion for %s", assertion.GetHeader(), strings.Join(assertion.GetAudiences(), ", ")))
	}
	if exchange := upstream.GetExchange(); exchange != nil {
		words = append(words, "authorization: a token exchanged at "+exchange.GetTokenEndpoint())
	}
	return words
}
