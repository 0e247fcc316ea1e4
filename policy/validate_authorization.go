package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"weir.dev/policy/v1alpha1"
)

// authorization checks rules and what they read. What a rule reads may be another
// policy's only where policies are merged.
func (c *checker) authorization(at string, authorization *v1alpha1.Authorization, merge bool) {
	if authorization == nil {
		return
	}
	list := at + ".rules"
	c.count(list, len(authorization.Rules), 1, 64)
	names := make([]string, len(authorization.Rules))
	provides := provided(&authorization.AuthorizationInputs)
	for i := range authorization.Rules {
		rule := &authorization.Rules[i]
		field := fmt.Sprintf("%s[%d]", list, i)
		names[i] = rule.Name
		oneOf(c, field+".effect", rule.Effect, false, v1alpha1.EffectAllow, v1alpha1.EffectDeny, v1alpha1.EffectRequire)
		var read []string
		switch {
		case rule.When != "":
			program, err := c.parser.expressions.Compile(rule.When)
			if err != nil {
				c.expression(field+".when", err)
			} else {
				read = program.References()
			}
		case rule.Effect != v1alpha1.EffectRequire && !hasRequirements(&rule.Requirements):
			c.required(field + ".when")
		}
		read = append(read, c.requirements(field, rule)...)
		if lacking := lacks(read, provides); lacking != "" && !merge {
			c.fail(CodeNotProvided, field, "%s", lacking)
		}
	}
	c.unique(list, names)
	c.authorizationInputs(at, &authorization.AuthorizationInputs)
}

func (c *checker) expression(field string, err error) {
	c.fail(CodeExpression, field, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
}

func hasRequirements(r *v1alpha1.Requirements) bool { return *r != v1alpha1.Requirements{} }

// relationshipsRead stands for the store among what a rule reads.
const relationshipsRead = "relationships"

// provided tells what rules can read beside what is always there: names of
// metadata, "request.body" and relationshipsRead.
func provided(inputs *v1alpha1.AuthorizationInputs) map[string]bool {
	provides := map[string]bool{}
	for i := range inputs.Metadata {
		provides["metadata."+inputs.Metadata[i].Name] = true
	}
	provides["request.body"] = inputs.Body != nil
	provides[relationshipsRead] = inputs.Relationships != nil
	return provides
}

// lacks says what is read and not provided; empty when nothing is.
func lacks(read []string, provides map[string]bool) string {
	for _, name := range read {
		if provides[name] {
			continue
		}
		switch {
		case name == "request.body":
			return "reads request.body, which needs authorization.body: {}"
		case name == relationshipsRead:
			return "requires a relationship, which needs authorization.relationships"
		case strings.HasPrefix(name, "metadata."):
			return fmt.Sprintf("reads %s, and no entry of authorization.metadata has this name", name)
		}
	}
	return ""
}

// requirements checks what a rule requires and returns what it reads for that.
func (c *checker) requirements(field string, rule *v1alpha1.AuthorizationRule) (read []string) {
	r := &rule.Requirements
	switch {
	case !hasRequirements(r):
		if rule.Effect == v1alpha1.EffectRequire {
			c.fail(CodeRequired, field, "needs requireScopes, requireRoles, requireAuthentication or requireRelationship")
		}
		return nil
	case rule.Effect == v1alpha1.EffectDeny:
		c.fail(CodeInvalid, field, "requirements go with Require and Allow; a Deny rule says in when whom it refuses")
	}
	c.words(field+".requireScopes", r.RequireScopes, true)
	c.words(field+".requireRoles", r.RequireRoles, false)
	if login := r.RequireAuthentication; login != nil {
		at := field + ".requireAuthentication"
		if len(login.ACRValues) == 0 && login.MaxAge == nil {
			c.required(at + ".acrValues")
		}
		c.wordList(at+".acrValues", login.ACRValues, 16, true)
		c.duration(at+".maxAge", login.MaxAge, time.Second, 365*24*time.Hour)
	}
	if relationship := r.RequireRelationship; relationship != nil {
		read = append(read, relationshipsRead)
		at := field + ".requireRelationship"
		read = append(read, c.template(at+".user", relationship.User, 1024)...)
		read = append(read, c.template(at+".relation", relationship.Relation, 1024)...)
		read = append(read, c.template(at+".object", relationship.Object, 1024)...)
		texts := map[string]string{"user": relationship.User, "object": relationship.Object}
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			text := texts[name]
			if text != "" && !typedObject.MatchString(text) {
				c.fail(CodeInvalid, at+"."+name, "%q does not begin with a type and a colon, such as %q", text, name+":{identity.subject}")
			}
		}
	}
	return read
}

// typedObject is an object of a relationship: its type is not left to a request.
var typedObject = regexp.MustCompile(`^[^:#@\s{}]+:.`)

func (c *checker) words(field string, words *v1alpha1.WordRequirement, scopes bool) {
	if words == nil {
		return
	}
	if len(words.AllOf)+len(words.AnyOf) == 0 {
		c.required(field + ".allOf")
	}
	c.wordList(field+".allOf", words.AllOf, 32, scopes)
	c.wordList(field+".anyOf", words.AnyOf, 32, scopes)
}

// wordList checks words; those of challenges are scope-tokens (RFC 6749 section
// 3.3).
func (c *checker) wordList(field string, words []string, most int, challenged bool) {
	c.count(field, len(words), 0, most)
	for i, word := range words {
		at := fmt.Sprintf("%s[%d]", field, i)
		c.text(at, word, true, 256)
		if challenged && strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			c.fail(CodeInvalid, at, "%q holds a space, a quote, a backslash or a character that is not ASCII", word)
		}
	}
}

// template checks a template and returns what it reads.
func (c *checker) template(field, text string, most int) []string {
	c.text(field, text, true, most)
	template, err := c.parser.expressions.CompileTemplate(text)
	if err != nil {
		c.expression(field, err)
		return nil
	}
	return template.References()
}

func (c *checker) authorizationInputs(at string, inputs *v1alpha1.AuthorizationInputs) {
	c.count(at+".roleClaims", len(inputs.RoleClaims), 0, 8)
	for i, claim := range inputs.RoleClaims {
		c.text(fmt.Sprintf("%s.roleClaims[%d]", at, i), claim, true, 256)
	}
	c.count(at+".metadata", len(inputs.Metadata), 0, 16)
	seen := map[string]bool{}
	for i := range inputs.Metadata {
		source := &inputs.Metadata[i]
		field := fmt.Sprintf("%s.metadata[%d]", at, i)
		switch {
		case !metadataName.MatchString(source.Name):
			c.fail(CodeInvalid, field+".name", "%q is not a name that an expression can use: letters, digits and _, a small letter first", source.Name)
		case seen[source.Name]:
			c.fail(CodeDuplicateName, field+".name", "%q is there twice", source.Name)
		}
		seen[source.Name] = true
		c.metadataSource(field, source)
	}
	if store := inputs.Relationships; store != nil {
		field := at + ".relationships"
		c.endpoint(field+".url", store.URL, false)
		if !storeID.MatchString(store.StoreID) {
			c.fail(CodeInvalid, field+".storeId", "%q is not the id of a store", store.StoreID)
		}
		if store.ModelID != "" && !storeID.MatchString(store.ModelID) {
			c.fail(CodeInvalid, field+".modelId", "%q is not the id of a model", store.ModelID)
		}
		c.secretKeyRef(field+".tokenRef", store.TokenRef)
		c.duration(field+".timeout", store.Timeout, 10*time.Millisecond, 10*time.Second)
		c.duration(field+".cacheDuration", store.CacheDuration, 0, time.Hour)
	}
	if body := inputs.Body; body != nil {
		c.between(at+".body.maxBytes", body.MaxBytes, 1, 1<<20)
		if body.DescriptorSetRef != nil {
			c.configMapRef(at+".body.descriptorSetRef", *body.DescriptorSetRef)
		}
	}
}

var (
	metadataName = regexp.MustCompile(`^[a-z][a-zA-Z0-9_]{0,62}$`)
	storeID      = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

func (c *checker) metadataSource(field string, source *v1alpha1.MetadataSource) {
	c.endpoint(field+".url", source.URL, false)
	oneOf(c, field+".protocol", source.Protocol, true, v1alpha1.MetadataHTTP, v1alpha1.MetadataGRPC)
	c.metadataProtocol(field, source)
	read := []string(nil)
	if source.Path != "" {
		read = append(read, c.template(field+".path", source.Path, 1024)...)
		if literal := source.Path; literal[0] != '/' || strings.ContainsAny(literal, "?#") && !strings.Contains(literal, "{") || strings.Contains(literal, "..") {
			c.fail(CodeInvalid, field+".path", "%q does not begin with /, or holds .., ? or #; parameters go under query", literal)
		}
	}
	c.count(field+".query", len(source.Query), 0, 16)
	for _, name := range slices.Sorted(maps.Keys(source.Query)) {
		text := source.Query[name]
		c.text(field+".query", name, true, 128)
		read = append(read, c.template(fmt.Sprintf("%s.query[%q]", field, name), text, 1024)...)
	}
	c.count(field+".parameters", len(source.Parameters), 0, 16)
	for _, name := range slices.Sorted(maps.Keys(source.Parameters)) {
		c.text(field+".parameters", name, true, 128)
		read = append(read, c.template(fmt.Sprintf("%s.parameters[%q]", field, name), source.Parameters[name], 1024)...)
	}
	c.count(field+".headers", len(source.Headers), 0, 16)
	for _, name := range slices.Sorted(maps.Keys(source.Headers)) {
		text := source.Headers[name]
		at := fmt.Sprintf("%s.headers[%q]", field, name)
		c.header(at, name)
		if slices.Contains([]string{"host", "authorization", "content-length", "connection", "transfer-encoding"}, strings.ToLower(name)) {
			c.fail(CodeInvalid, at, "%q cannot be set here; a token goes under tokenRef", name)
		}
		read = append(read, c.template(at, text, 1024)...)
	}
	for _, name := range read {
		if strings.HasPrefix(name, "metadata") {
			c.fail(CodeInvalid, field, "reads %s: a source cannot depend on another one", name)
		}
	}
	c.secretKeyRef(field+".tokenRef", source.TokenRef)
	c.duration(field+".timeout", source.Timeout, 10*time.Millisecond, 10*time.Second)
	c.duration(field+".cacheDuration", source.CacheDuration, 0, time.Hour)
	c.between(field+".maxBytes", source.MaxBytes, 1, 1<<20)
	if len(source.Default) > 4096 || source.Default != "" && !json.Valid([]byte(source.Default)) {
		c.fail(CodeInvalid, field+".default", "is not a JSON text of at most 4096 bytes")
	}
}

// metadataProtocol refuses what a source's protocol has no place for: it would
// be left out of the question.
func (c *checker) metadataProtocol(field string, source *v1alpha1.MetadataSource) {
	if source.Protocol != v1alpha1.MetadataGRPC {
		if len(source.Parameters) > 0 {
			c.fail(CodeInvalid, field+".parameters", "go with protocol: GRPC; over HTTP write path and query")
		}
		return
	}
	if parsed, err := url.Parse(source.URL); err == nil && strings.Trim(parsed.Path, "/") != "" {
		c.fail(CodeInvalid, field+".url", "%q has a path, which a GRPC source has not: it is asked at weir.metadata.v1.MetadataService/Lookup", source.URL)
	}
	if source.Path != "" {
		c.fail(CodeInvalid, field+".path", "goes with protocol: HTTP; over GRPC write parameters")
	}
	if len(source.Query) > 0 {
		c.fail(CodeInvalid, field+".query", "goes with protocol: HTTP; over GRPC write parameters")
	}
	for _, name := range slices.Sorted(maps.Keys(source.Headers)) {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "grpc-") || strings.HasSuffix(lower, "-bin") || slices.Contains([]string{"te", "content-type", "user-agent"}, lower) {
			c.fail(CodeInvalid, fmt.Sprintf("%s.headers[%q]", field, name), "%q is gRPC's own, or of binary metadata; choose another header", name)
		}
	}
}

// endpoint checks the address of a server that extauthz asks.
func (c *checker) endpoint(field, address string, query bool) {
	parsed, err := url.Parse(address)
	switch {
	case address == "":
		c.required(field)
	case len(address) > 2048 || err != nil || parsed.Host == "" || parsed.User != nil || parsed.Fragment != "" || parsed.RawQuery != "" && !query || parsed.Opaque != "":
		c.fail(CodeInvalid, field, "%q is not an https URL without user, query and fragment", address)
	case parsed.Scheme == "http" && !isLoopback(parsed.Hostname()):
		c.fail(CodeInvalid, field, "%q: what is asked and answered over http can be read and changed on the way; write https", address)
	case parsed.Scheme != "https" && parsed.Scheme != "http":
		c.fail(CodeInvalid, field, "%q: the scheme must be https", address)
	}
}

// upstream checks what the service is told.
func (c *checker) upstream(at string, upstream *v1alpha1.Upstream) {
	if upstream == nil {
		return
	}
	for i, header := range upstream.IdentityHeaders {
		oneOf(c, fmt.Sprintf("%s.identityHeaders[%d]", at, i), header, false, v1alpha1.IdentityConsumer, v1alpha1.IdentitySubject, v1alpha1.IdentityTenant,
			v1alpha1.IdentityTier, v1alpha1.IdentityScopes, v1alpha1.IdentityAuthenticator, v1alpha1.IdentityNone)
		if header == v1alpha1.IdentityNone && len(upstream.IdentityHeaders) > 1 {
			c.fail(CodeInvalid, at+".identityHeaders", "None stands alone")
		}
	}
	c.count(at+".claimHeaders", len(upstream.ClaimHeaders), 0, 16)
	seen := map[string]bool{}
	for i, header := range upstream.ClaimHeaders {
		field := fmt.Sprintf("%s.claimHeaders[%d]", at, i)
		c.text(field+".claim", header.Claim, true, 256)
		c.ownHeader(field+".header", header.Header, seen)
	}
	if assertion := upstream.Assertion; assertion != nil {
		field := at + ".assertion"
		if assertion.Header != "" && !strings.EqualFold(assertion.Header, defaultAssertionHeader) {
			c.ownHeader(field+".header", assertion.Header, seen)
		}
		c.count(field+".audiences", len(assertion.Audiences), 1, 8)
		for i, audience := range assertion.Audiences {
			c.text(fmt.Sprintf("%s.audiences[%d]", field, i), audience, true, 512)
		}
		c.duration(field+".lifetime", assertion.Lifetime, 10*time.Second, 5*time.Minute)
		c.count(field+".claims", len(assertion.Claims), 0, 16)
		for i, claim := range assertion.Claims {
			c.text(fmt.Sprintf("%s.claims[%d]", field, i), claim, true, 256)
		}
	}
	if exchange := upstream.TokenExchange; exchange != nil {
		c.tokenExchange(at+".tokenExchange", exchange)
	}
}

const defaultAssertionHeader = "x-weir-assertion"

// ownHeader checks a header that only we set for the service.
func (c *checker) ownHeader(field, name string, seen map[string]bool) {
	c.header(field, name)
	lower := strings.ToLower(name)
	switch {
	case strings.Contains(name, "_"):
		c.fail(CodeInvalid, field, "%q: headers with _ are refused at the edge", name)
	case strings.HasPrefix(lower, "x-weir-"):
		c.fail(CodeInvalid, field, "%q: x-weir- is the edge's own", name)
	case slices.Contains([]string{
		"host", "connection", "content-length", "content-type", "content-encoding", "transfer-encoding", "te", "trailer", "upgrade", "authorization",
		"cookie", "set-cookie", "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-client-cert", "traceparent", "tracestate",
	}, lower):
		c.fail(CodeInvalid, field, "%q belongs to the protocol; choose another header", name)
	case seen[lower]:
		c.fail(CodeDuplicateName, field, "%q is there twice", name)
	}
	seen[lower] = true
}

func (c *checker) tokenExchange(field string, exchange *v1alpha1.TokenExchange) {
	c.endpoint(field+".tokenEndpoint", exchange.TokenEndpoint, true)
	c.text(field+".clientId", exchange.ClientID, true, 256)
	c.secretKeyRef(field+".clientSecretRef", &exchange.ClientSecretRef)
	c.clientAuthentication(field, exchange.ClientAuthentication, exchange.AssertionAudience)
	c.text(field+".audience", exchange.Audience, false, 512)
	c.text(field+".resource", exchange.Resource, false, 512)
	c.wordList(field+".scopes", exchange.Scopes, 32, true)
	c.duration(field+".timeout", exchange.Timeout, 10*time.Millisecond, 10*time.Second)
}
