package policy

import (
	"cmp"
	"fmt"
	"slices"
)

// Severity says whether a problem keeps an object out of the Plan.
type Severity string

// Severities.
const (
	// SeverityError: the object, or the part named, is not in the Plan.
	SeverityError Severity = "error"
	// SeverityNotice: worth knowing; nothing is left out.
	SeverityNotice Severity = "notice"
)

// Code is a stable name of a kind of problem; docs/reference/problems.md
// explains each with its fix.
type Code string

// Codes. The numbers are never reused.
const (
	CodeYAML             Code = "WEIR1001"
	CodeUnknownKind      Code = "WEIR1002"
	CodeDecode           Code = "WEIR1003"
	CodeUnknownField     Code = "WEIR1004"
	CodeDuplicateObject  Code = "WEIR1005"
	CodeTooLarge         Code = "WEIR1006"
	CodeMetadata         Code = "WEIR1007"
	CodeUnreadable       Code = "WEIR1008"
	CodeRequired         Code = "WEIR2001"
	CodeInvalid          Code = "WEIR2002"
	CodeTooMany          Code = "WEIR2003"
	CodeUnsupported      Code = "WEIR2004"
	CodeExpression       Code = "WEIR2005"
	CodeDuplicateName    Code = "WEIR2006"
	CodeDuplicateKey     Code = "WEIR2007"
	CodeLoginKeys        Code = "WEIR2440"
	CodeLoginPaths       Code = "WEIR2441"
	CodeRefNotFound      Code = "WEIR3001"
	CodeRefNotPermitted  Code = "WEIR3002"
	CodeNotAttached      Code = "WEIR3003"
	CodeOverridden       Code = "WEIR3004"
	CodeListenerConflict Code = "WEIR3005"
	CodeRouteConflict    Code = "WEIR3006"
	CodeFailClosed       Code = "WEIR3007"
	CodeCertificate      Code = "WEIR2101"
	CodeRouteKinds       Code = "WEIR3101"
	CodeIsolated         Code = "WEIR3102"
	CodeListenerClosed   Code = "WEIR3103"
	CodeSharedPort       Code = "WEIR3104"
	CodeHTTP3Clients     Code = "WEIR3105"
	CodeAddress          Code = "WEIR3106"
	CodeNotProvisioned   Code = "WEIR3107"
	CodeBackendKind      Code = "WEIR3201"
	CodeBackendProtocol  Code = "WEIR3202"
	CodeBackendUnusable  Code = "WEIR3203"
	CodeManyFallbacks    Code = "WEIR3204"
	CodeManyBlocks       Code = "WEIR2301"
	CodeNoClientCert     Code = "WEIR2420"
	CodeUnverifiedCert   Code = "WEIR2421"
	CodeDuplicateKeyID   Code = "WEIR2422"
	CodeReservedKind     Code = "WEIR2302"
	CodeNotProvided      Code = "WEIR2480"
	CodeTimeZone         Code = "WEIR2500"
	CodeLimitFields      Code = "WEIR2501"
	CodeLimitReplicas    Code = "WEIR2540"
	CodeLimitQuota       Code = "WEIR2550"
	CodeLimitNone        Code = "WEIR2560"
	CodeLimitExpression  Code = "WEIR2551"
	CodeDiscovery        Code = "WEIR2401"
	CodeSameTokens       Code = "WEIR2402"
	CodeClientKey        Code = "WEIR2403"
	CodeNoEffect         Code = "WEIR3301"
	CodeNoAuthentication Code = "WEIR3302"
	CodeTooManyMerged    Code = "WEIR3303"
	CodeOpenRoute        Code = "WEIR4001"
	CodeFollowed         Code = "WEIR5201"
	CodeKubernetes       Code = "WEIR5202"
	CodeOwned            Code = "WEIR5203"
	CodeSourceDown       Code = "WEIR5001"
	CodeRejected         Code = "WEIR5101"
	CodeNoFleet          Code = "WEIR5102"
	CodeEnvoyUnchecked   Code = "WEIR5320"
	CodeEnvoyFailOpen    Code = "WEIR5321"
	CodeEnvoyRawHeaders  Code = "WEIR5322"
	CodeEnvoyTimeout     Code = "WEIR5323"
	CodeEnvoyXFCC        Code = "WEIR5324"
	CodeEnvoyBody        Code = "WEIR5325"
	CodeEnvoyPaths       Code = "WEIR5326"
	CodeEnvoyOrder       Code = "WEIR5327"
	CodeEnvoyRouteOff    Code = "WEIR5328"
	CodeEnvoyMutations   Code = "WEIR5329"
	CodeEnvoyStatus      Code = "WEIR5330"
	CodeEnvoyAddress     Code = "WEIR5331"
	CodeEnvoyUnderscores Code = "WEIR5332"
	CodeEnvoySlowClients Code = "WEIR5333"
	CodeEnvoyFraction    Code = "WEIR5334"
	CodeRolledBack       Code = "WEIR5103"
	CodeAuditUnavailable Code = "WEIR5301"
	CodeAuditSpace       Code = "WEIR5302"
	CodeAuditRecovered   Code = "WEIR5303"
	CodeShadowSkipped    Code = "WEIR2460"
	CodeShadowRefuses    Code = "WEIR2461"
	CodeIstioUnsupported Code = "WEIR6001"
	CodeIstioKept        Code = "WEIR6002"
	CodeMeshOpen         Code = "WEIR6101"
	CodeMeshUnlimited    Code = "WEIR6102"
	CodeMeshWildcard     Code = "WEIR6103"
	CodeMeshPlaintext    Code = "WEIR6104"
	CodeMeshBackend      Code = "WEIR6105"
	CodeMeshTimeout      Code = "WEIR6106"
	CodeMeshIssuer       Code = "WEIR6107"
	CodeMTLSStep         Code = "WEIR6201"
	CodeMTLSPlaintext    Code = "WEIR6202"
	CodeMTLSUnknown      Code = "WEIR6203"
	CodeMTLSForeign      Code = "WEIR6204"
	CodeMTLSRolledBack   Code = "WEIR6205"
)

// Explanations is the fix of each code, one line each; the reference page is
// generated from it.
func Explanations() map[Code]string {
	return map[Code]string{
		CodeYAML:             "The document is not YAML. Mend the syntax at the line named; the file's other documents are not affected.",
		CodeUnknownKind:      "The kind or apiVersion is not one that Weir serves. Check the spelling; the message lists what is known.",
		CodeDecode:           "A field has a value of the wrong type. Write the type that the message names.",
		CodeUnknownField:     "The field does not exist, or stands at the wrong depth. Check spelling and indentation.",
		CodeDuplicateObject:  "Two documents define the same kind, namespace and name. Keep one; the first by file name and line is used.",
		CodeTooLarge:         "A file or a folder is over its limit. Split it, or remove what is not policy.",
		CodeMetadata:         "metadata.name is missing or not a DNS-1123 name.",
		CodeUnreadable:       "A file or a folder of policy is away or cannot be read; what it last held stays in force, if anything. Put it back, or mend its permissions; to take its policy away, leave the folder there and empty it.",
		CodeRequired:         "A required field is missing.",
		CodeInvalid:          "The value is outside of what the field accepts; the message says what it accepts.",
		CodeTooMany:          "A list or text is longer than the field accepts.",
		CodeUnsupported:      "The field is part of the standard, but this version does not implement it, and ignoring it would change what is served.",
		CodeExpression:       "The CEL expression does not compile; the message has line and column within it.",
		CodeDuplicateName:    "Two entries of a list have the same name.",
		CodeDuplicateKey:     "Two consumers have the same API key, so it would not say who calls. Issue one of them a new key.",
		CodeLoginKeys:        "The Secret that session.keysRef names does not hold keys: one a line, each 32 bytes in base64 (`openssl rand -base64 32`), 1 to 8. Nobody can log in until it does.",
		CodeLoginPaths:       "Two different logins claim the same path of a host, and a provider's answer to the one would reach the other. Give one of them other paths (login.paths), and register its callback with the provider.",
		CodeRefNotFound:      "The object referred to does not exist, or lacks the key or section.",
		CodeRefNotPermitted:  "A reference across namespaces needs a ReferenceGrant in the namespace referred to that names the kinds of both ends. Write one, or keep both in one namespace.",
		CodeNotAttached:      "The route or policy attaches to nothing, so it has no effect.",
		CodeOverridden:       "Another policy is attached to the same target and wins: one that overrides, then the older one, then the first by namespace and name. Keep one of them, or let the winner have strategy merge.",
		CodeListenerConflict: "Two listeners claim the same port and hostname.",
		CodeRouteConflict:    "Two routes have an identical match; the older one, then the first by namespace and name, answers.",
		CodeFailClosed:       "An AuthPolicy is broken, so what it protects (or might protect) is refused with 503 until it is mended. A control plane that had a good version of it goes on by that one; `weir validate` knows none.",
		CodeMeshOpen:         "`weir mesh check`: the route has no AuthPolicy. Attach one; for a route that is meant for everybody one that says `anonymous`.",
		CodeMeshUnlimited:    "`weir mesh check`: the route has no RateLimitPolicy. Attach one to it, its Gateway or the listener.",
		CodeMeshWildcard:     "`weir mesh check`: a wildcard host takes requests for names that nobody asked for. Name the hosts, or say who answers for them with the annotation weir.dev/owner.",
		CodeMeshPlaintext:    "`weir mesh check`: credentials and content pass in the clear. Serve the route on an HTTPS listener, and keep the HTTP one for a redirect.",
		CodeMeshBackend:      "`weir mesh check`: what the edge decided can be changed on the way to the service. Give the Backend tls, or the Service a BackendTLSPolicy, or check with --target istio where the mesh encrypts it.",
		CodeMeshTimeout:      "`weir mesh check`: a timeout is switched off. Set timeouts.request, or a TrafficPolicy's idle timeout for long exchanges.",
		CodeMeshIssuer:       "`weir mesh check --online`: the issuer's keys could not be fetched from here, so its tokens are refused once the keys that extauthz has are too old. Check the URL and the network.",
		CodeMTLSStep:         "`weir mesh mtls`: the mode would be changed by more than one step, or back to STRICT without a look at who calls. Set PERMISSIVE first, which takes plaintext and mutual TLS, then STRICT.",
		CodeMTLSPlaintext:    "`weir mesh mtls`: somebody calls in plaintext, and would be cut off by STRICT. Give the caller that is named a sidecar, or let it come through a gateway of the mesh.",
		CodeMTLSUnknown:      "`weir mesh mtls`: it is not known who calls, so STRICT is not taken. The message names the sidecar that could not be asked or does not tell; mend that, and try again.",
		CodeMTLSForeign:      "`weir mesh mtls`: the mode is said by a PeerAuthentication that is not Weir's. Change it where it comes from, or delete it and set the mode again.",
		CodeMTLSRolledBack:   "`weir mesh mtls`: after the change somebody was refused, or a sidecar did not take it, and it was put back. The message says who or which.",
		CodeIstioUnsupported: "Istio can't do what the field asks for, and leaving it out would change what is served. Take it out of what goes to Istio, or serve the route by Weir's own proxies.",
		CodeIstioKept:        "The AuthPolicy asks for Istio to decide (annotation istio.weir.dev/decide), which for this route would give other answers, so extauthz decides as before. Change what the message names, or take the annotation away.",
		CodeCertificate:      "A Secret of type kubernetes.io/tls does not hold a certificate with its key. Its last good version, if there is one, keeps serving.",
		CodeNoClientCert:     "A way by client certificate has no effect on a listener, because the listener asks for no certificate, or removes or replaces the header that would tell of one. Attach a TLSPolicy with clientCertificates, or a HeaderPolicy with another forwardedClientCert.mode.",
		CodeUnverifiedCert:   "The listener lets in clients whose certificate it could not verify, and the way by certificate names no authorities to verify it by, so it is left out. Set caCertificateRefs, or have the listener refuse such clients.",
		CodeDuplicateKeyID:   "Two consumers have signature keys of the same keyId, so it would not say who signed. Give one of them another id.",
		CodeRouteKinds:       "allowedRoutes names a kind of route that does not go with the listener's protocol. HTTP and HTTPS take HTTPRoute and GRPCRoute, TLS takes TLSRoute.",
		CodeIsolated:         "A hostname of the route belongs to another listener of the port, whose hostname is more specific. Attach the route to that listener, too.",
		CodeListenerClosed:   "A TLSPolicy is broken or refers to authorities that cannot be had, so the listeners that it governs (or might govern) take no connection until it is mended.",
		CodeSharedPort:       "Listeners of protocol HTTP on one port have different connection settings, and only the first one's can be in effect. Attach the policy to the Gateway, or use another port.",
		CodeHTTP3Clients:     "HTTP/3 is not offered where client certificates are asked for, since Envoy does not verify them there.",
		CodeAddress:          "An address of spec.addresses cannot be had: it is of a kind that is not served, is none of those that lead to the proxies, or another Gateway binds the port at it with other addresses beside it. Mend the address, or leave addresses out to be served at the proxy's own.",
		CodeNotProvisioned:   "The Gateway says how what is made for it is to be labelled or set up, and nothing is made: proxies are started by whoever runs them. Label them there, or leave spec.infrastructure out.",
		CodeSourceDown:       "A source of policy, such as the Kubernetes API, cannot be read; what it last held stays in force. Look at its address, credentials and permissions; the message has what it answered.",
		CodeBackendKind:      "The kind of a backendRef is none that can be routed to. Refer to a Service, or to a Backend of group weir.dev.",
		CodeBackendProtocol:  "The backend does not speak what the route needs. Give the Backend another protocol, the Service's port another appProtocol, or route to another one.",
		CodeBackendUnusable:  "The backend exists and cannot be used as it is: what secures it is not whole, or its appProtocol is not known. The message says which.",
		CodeManyFallbacks:    "The routes of wildcard hostnames also serve the more specific hostnames where nothing there matches; there are too many for that. Use fewer hostnames, or fewer routes on wildcards.",
		CodeRejected:         "A proxy, or one of Weir's servers, rejected what this object makes of its configuration, so the object stays as it last was accepted, or is left out. The message holds the reason in its words. Mend the object: it is tried again when it changes, and every 15 seconds.",
		CodeNoFleet:          "The control plane's configuration has fleets, and none of them serves this Gateway. Name it in fleets[].gateways, or give it the labels of one.",
		CodeRolledBack:       "A proxy rejected the configuration, and what of the changes is to blame could not be told: those that are named are put back (or the whole fleet is, when none is), and what was accepted last serves. Undo the changes one by one, or read the proxy's log.",
		CodeEnvoyUnchecked:   "An HTTP listener of Envoy has no ext_authz filter, so nobody is asked about its requests. Add the filter before the router, or leave the listener if it is meant to be open.",
		CodeEnvoyFailOpen:    "failure_mode_allow lets every request through while extauthz is away or slow. Remove it.",
		CodeEnvoyRawHeaders:  "Without encode_raw_headers repeated headers arrive joined by commas, so that two credentials look like one. Set encode_raw_headers: true.",
		CodeEnvoyTimeout:     "The timeout of the ext_authz call is zero, which is none, or so long that waiting requests pile up. Set the service's timeout to a second or less.",
		CodeEnvoyXFCC:        "forward_client_cert_details lets a client's own X-Forwarded-Client-Cert header through, in which it may name any certificate. Use SANITIZE or SANITIZE_SET.",
		CodeEnvoyBody:        "with_request_body lets a body through that is larger than it should be, or passes the beginning of one for the whole. Set max_request_bytes to what rules need, at most 1 MiB, and allow_partial_message to false.",
		CodeEnvoyPaths:       "Envoy leaves paths as clients wrote them, so that it, the rules and the service may read them differently. Set normalize_path and merge_slashes, and path_with_escaped_slashes_action: REJECT_REQUEST.",
		CodeEnvoyOrder:       "A filter that stands on the wrong side of ext_authz answers requests before they are checked, or changes their route afterwards. Put caches after ext_authz, and leave clear_route_cache out.",
		CodeEnvoyRouteOff:    "Routes turn the check off for themselves. Leave it so only for what everybody may call.",
		CodeEnvoyMutations:   "Without validate_mutations a header of extauthz's answer that is not valid reaches the service. Set validate_mutations: true.",
		CodeEnvoyStatus:      "status_on_error is no error, so a client takes a failed check for success. Use 403 or 503.",
		CodeEnvoyAddress:     "Envoy believes the X-Forwarded-For and X-Forwarded-Proto of clients. Set use_remote_address: true where clients connect to it, and xff_num_trusted_hops to the number of proxies before it.",
		CodeEnvoyUnderscores: "Header names with underscores pass, which many servers read as dashes: x_weir_tenant for x-weir-tenant. Set headers_with_underscores_action: REJECT_REQUEST.",
		CodeEnvoySlowClients: "A client may take for ever to send its headers, or leave a stream idle, and holds memory meanwhile. Set request_headers_timeout, and don't set stream_idle_timeout to 0.",
		CodeEnvoyFraction:    "filter_enabled has only a share of the requests checked; the others pass. Remove it, or set deny_at_disable.",
		CodeManyBlocks:       "A policy says its settings in more than one place. Write them in exactly one: the spec itself, spec.defaults or spec.overrides (GEP-713 allows one merge strategy a policy).",
		CodeTimeZone:         "A limit's calendar is in a time zone that the IANA database doesn't know. Write a name such as Europe/Berlin or UTC.",
		CodeLimitFields:      "Two fields of a limit exclude each other, or one of them lacks the other that it is for. The message says which; remove one, or add what it needs.",
		CodeLimitReplicas:    "The limit asks that replicas of the limiter decide by themselves, and something else in it needs the counters that all share. The message says what; remove either.",
		CodeLimitNone:        "The limit lets nobody through. If that is meant, keep it, or say it with an AuthPolicy, whose refusal (403) doesn't read as if waiting could help; if not, give a number. To lift the limit, say unlimited for a tier, or remove the limit; to try it first, say shadow: true.",
		CodeLimitQuota:       "The limit is decided by Envoys from quotas (mode: Quota), and something else in it needs the limiter at each request. The message says what; remove it, or the mode.",
		CodeLimitExpression:  "The expression of a cost is not one. The message has line and column, and says what can be read of a request.",
		CodeDiscovery:        "An issuer's discovery document is found by the issuer's own URL, and this issuer is no https URL. Write the document's URI, or give the keys by remote or configMapRef.",
		CodeSameTokens:       "An earlier way of the policy takes the tokens that this one is for, so this one never gets any. Join the two, or have the policy target other routes.",
		CodeClientKey:        "A client proves itself by a signature, and the Secret holds no private key that it can sign with. Write an RSA (2048 bits and more), ECDSA (P-256, P-384) or Ed25519 key in PEM, without a password.",
		CodeReservedKind:     "The kind belongs to a later version of Weir. Remove the object: what it asks for does not happen.",
		CodeNotProvided:      "A rule reads what its policy does not provide: a source of metadata, the request's body, or a relationship store. Add it under authorization, beside the rules. Where policies are merged and the one that provides it is not in effect, every request is refused.",
		CodeNoEffect:         "Other policies are in effect everywhere that this one reaches, so it does nothing. Remove it, or change where or how they are attached; the message names them.",
		CodeNoAuthentication: "AuthPolicies with strategy merge reach a route and none of them says how callers are identified, so every request is refused. Add authentication to one of them.",
		CodeTooManyMerged:    "AuthPolicies merged on one route come to more ways or rules than are checked for a request. Merge fewer of them; until then every request is refused.",
		CodeFollowed:         "weir apply keeps objects of its own and does not override those of a folder or a cluster that the control plane follows. Edit the object where it is defined, or give the new one another name.",
		CodeKubernetes:       "The Kubernetes API refused the object; the message is its own. Mend the field that it names, install the definitions that it lacks, or ask for the permission.",
		CodeOwned:            "A field of the object in Kubernetes belongs to another field manager (or the object to another set), and has another value. Leave the field to its owner, or take it over with --force-conflicts.",
		CodeOpenRoute:        "No AuthPolicy is attached to the route or its gateway: anyone may call it.",
		CodeAuditUnavailable: "extauthz cannot write its audit log, so requests whose policy requires a record are refused with 503. Its log has the reason: make room, or, where the log was changed, verify it (weir audit verify) and move its files away. It is tried again every second.",
		CodeAuditSpace:       "The file system of the audit log is nearly full. Make room, or keep less (audit.keepBytes, audit.keepAge); when it is full, requests whose policy requires a record are refused.",
		CodeAuditRecovered:   "The audit log ended in an unfinished line, as a crash leaves it. Nobody was told that it was written; it was cut off and kept in a file beside the log. Nothing is to be done.",
		CodeShadowSkipped:    "An AuthPolicy or rule in the shadow cannot be compared with what is in force; the message says why. It decides nothing either way.",
		CodeShadowRefuses:    "In force, the AuthPolicy in the shadow would refuse every request of a route, because no way to identify callers is left that can be used. The message says where.",
	}
}

// ObjectRef names an object.
type ObjectRef struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String is "Kind namespace/name".
func (r ObjectRef) String() string {
	if r.Kind == "" {
		return "document"
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// Origin is where a piece of the Plan comes from.
type Origin struct {
	Object ObjectRef `json:"object"`
	// Field is a path such as "spec.rules[0].backendRefs[1].name"; empty for the
	// whole object.
	Field string `json:"field,omitempty"`
	// File is as the source names it; Line counts from 1, 0 when not known.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// String is "file:line: Kind namespace/name: field", as far as known.
func (o Origin) String() string {
	text := o.Object.String()
	if o.Field != "" {
		text += ": " + o.Field
	}
	if o.File == "" {
		return text
	}
	if o.Line == 0 {
		return o.File + ": " + text
	}
	return fmt.Sprintf("%s:%d: %s", o.File, o.Line, text)
}

// Problem is one finding about one place.
type Problem struct {
	Origin
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
}

// Error is one line: place, message, code.
func (p Problem) Error() string {
	return fmt.Sprintf("%s: %s [%s]", p.Origin, p.Message, p.Code)
}

// Problems is a list of findings.
type Problems []Problem

// Errors are those of SeverityError.
func (ps Problems) Errors() Problems {
	var errs Problems
	for _, p := range ps {
		if p.Severity == SeverityError {
			errs = append(errs, p)
		}
	}
	return errs
}

// Sort orders by file, line, object, field and code, so that equal inputs print
// equally.
func (ps Problems) Sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			compareRefs(a.Object, b.Object), cmp.Compare(a.Field, b.Field),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
}
