package record

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/extauthz"
)

// Made is a decision with what it was made of.
type Made struct {
	// At is when the request came, and Took how long deciding took.
	At   time.Time
	Took time.Duration
	// Rules are those that it was decided by, nil when there were none.
	Rules    *extauthz.Rules
	Request  *extauthz.Request
	Decision *extauthz.Decision
}

// Bounds of one record, so that it fits the audit log whatever a client sends.
const (
	maxTextBytes   = 2 << 10
	maxHeaders     = 64
	maxClaimsDepth = 6
	maxClaimsBytes = 16 << 10
)

// Of makes the record of a decision.
func Of(server string, made *Made) *decisionv1.Decision {
	decision, request := made.Decision, made.Request
	seen := extauthz.Inspect(made.Rules, request, decision)
	record := &decisionv1.Decision{
		Id: decision.ID, Time: timestamppb.New(made.At), RequestId: request.ID, Server: server,
		Allowed: decision.Allowed, Reason: string(decision.Reason), Route: text(decision.Route),
		Policy: decision.Policy, Digest: decision.Digest, Authenticator: decision.Authenticator, Rule: decision.Rule,
		Methods: steps(seen.Methods, false), Rules: steps(seen.Rules, true), Took: durationpb.New(made.Took),
	}
	if decision.Cause != nil {
		record.Cause = text(decision.Cause.Error())
	}
	reads := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(seen.Reads, name) })
	}
	record.Request = &decisionv1.Request{
		Method: text(request.Method), Host: text(seen.Host), Path: text(seen.Path), Protocol: text(request.Protocol), Source: text(cmp.Or(decision.Client, request.Source)),
	}
	query, whole := redactQuery(seen.Query, reads("request", "request.query", "request.raw_query"))
	record.Request.Query = query
	if !whole {
		record.Missing = append(record.Missing, "request.query")
	}
	if reads("request", "request.headers") {
		if record.Request.Headers, whole = redactHeaders(seen.Headers); !whole {
			record.Missing = append(record.Missing, "request.headers")
		}
	} else if len(seen.Headers) > 0 {
		record.Missing = append(record.Missing, "request.headers")
	}
	record.Missing = append(record.Missing, unrecorded(seen.Reads)...)
	if seen.Identified {
		record.Caller = caller(record, decision, reads("identity", "identity.claims", "identity.roles"))
	}
	return record
}

// unrecorded are what rules read and no record has.
func unrecorded(reads []string) (missing []string) {
	for _, read := range reads {
		if read == "metadata" || strings.HasPrefix(read, "metadata.") {
			read = "metadata"
		}
		switch read {
		case "metadata", "request.body", "request.size", "source.port", "source.principal", "identity.certificate":
			missing = append(missing, read)
		}
	}
	return slices.Compact(missing)
}

func caller(record *decisionv1.Decision, decision *extauthz.Decision, claims bool) *decisionv1.Caller {
	identity := &decision.Identity
	found := &decisionv1.Caller{
		Consumer: identity.Consumer, Subject: identity.Subject, Tenant: identity.Tenant, Tier: identity.Tier,
		Scopes: identity.Scopes, Issuer: identity.Issuer,
	}
	if identity.Claims == nil {
		return found
	}
	whole := false
	if claims {
		found.Claims, whole = redactClaims(identity.Claims)
	}
	if !whole {
		record.Missing = append(record.Missing, "identity.claims")
	}
	return found
}

func steps(seen []extauthz.Seen, rules bool) []*decisionv1.Step {
	list := make([]*decisionv1.Step, len(seen))
	for i, s := range seen {
		list[i] = &decisionv1.Step{Name: s.Name, Outcome: s.Outcome}
		if rules {
			list[i].Effect = s.Kind
		} else {
			list[i].Kind = s.Kind
		}
	}
	return list
}

// text bounds what a client may have chosen, and keeps it on one line.
func text(value string) string {
	if len(value) > maxTextBytes {
		value = value[:maxTextBytes] + "…"
	}
	return strings.ToValidUTF8(value, "\uFFFD")
}

// Removed stands in the place of what is not recorded.
const Removed = "(removed)"

// secretName reports whether a header, parameter or claim is named as secrets
// are.
func secretName(name string) bool {
	name = strings.ToLower(name)
	switch name {
	case "code", "sig", "pin", "otp", "pwd", "state", "nonce", "jwt":
		return true
	}
	for _, part := range []string{
		"auth", "token", "secret", "passw", "passphrase", "cookie", "key", "session", "signature", "credential", "assertion", "hmac", "dpop",
	} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// redactHeaders keeps the first value of each header.
func redactHeaders(headers map[string][]string) (kept map[string]string, whole bool) {
	kept, whole = make(map[string]string, len(headers)), true
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		value := headers[name][0]
		switch {
		case len(kept) == maxHeaders:
			return kept, false
		case secretName(name) || looksSecret(value):
			kept[text(name)], whole = Removed, false
		default:
			kept[text(name)] = text(value)
			whole = whole && len(value) <= maxTextBytes && len(headers[name]) == 1
		}
	}
	return kept, whole
}

// looksSecret finds what is a token or a key whatever it is called.
func looksSecret(value string) bool {
	return strings.HasPrefix(value, "eyJ") && strings.Count(value, ".") >= 2 || strings.HasPrefix(value, "weir_") || strings.HasPrefix(value, "Bearer ") || strings.HasPrefix(value, "Basic ")
}

// redactQuery keeps the names of parameters, and their values where rules read
// them. It doesn't decode: what is recorded is what was sent.
func redactQuery(query string, values bool) (kept string, whole bool) {
	if query == "" {
		return "", true
	}
	whole = len(query) <= maxTextBytes
	parts := strings.Split(text(query), "&")
	for i, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		switch {
		case looksSecret(name):
			parts[i], whole = Removed, false
		case value != "" && (!values || secretName(name) || looksSecret(value)):
			parts[i], whole = name+"="+Removed, false
		}
	}
	return strings.Join(parts, "&"), whole
}

func redactClaims(claims *structpb.Struct) (kept *structpb.Struct, whole bool) {
	r := redaction{whole: true, left: maxClaimsBytes}
	return r.object(claims, 0), r.whole
}

type redaction struct {
	whole bool
	left  int
}

func (r *redaction) object(from *structpb.Struct, depth int) *structpb.Struct {
	to := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(from.GetFields()))}
	for name, value := range from.GetFields() {
		r.left -= len(name)
		if secretName(name) && name != "auth_time" || r.left < 0 {
			r.whole = false
			to.Fields[text(name)] = structpb.NewStringValue(Removed)
			continue
		}
		to.Fields[text(name)] = r.value(value, depth)
	}
	return to
}

func (r *redaction) value(from *structpb.Value, depth int) *structpb.Value {
	switch kind := from.GetKind().(type) {
	case *structpb.Value_StringValue:
		r.left -= len(kind.StringValue)
		if looksSecret(kind.StringValue) || r.left < 0 || len(kind.StringValue) > maxTextBytes {
			r.whole = false
			return structpb.NewStringValue(Removed)
		}
		return from
	case *structpb.Value_StructValue:
		if depth < maxClaimsDepth {
			return structpb.NewStructValue(r.object(kind.StructValue, depth+1))
		}
	case *structpb.Value_ListValue:
		if depth < maxClaimsDepth {
			list := &structpb.ListValue{}
			for _, element := range kind.ListValue.GetValues() {
				list.Values = append(list.Values, r.value(element, depth+1))
			}
			return structpb.NewListValue(list)
		}
	default:
		r.left -= 8
		return from
	}
	r.whole = false
	return structpb.NewStringValue(Removed)
}
