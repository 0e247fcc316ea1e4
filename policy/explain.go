package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weir.dev/policy/v1alpha1"
)

// Question is a request to Explain.
type Question struct {
	// Scheme is "http", "https" or empty for either.
	Scheme string
	// Method in upper case; empty means GET.
	Method string
	// Host as in the Host header or ":authority", with or without a port.
	Host string
	// Path with its query, as a client sends it; empty means "/".
	Path string
	// Headers by any case; several of a name are allowed.
	Headers []Header
	// SNI is the server name of the TLS handshake; empty means Host.
	SNI string
	// Port of the Gateway's listener; 0 takes the one in Host, or else the first
	// that serves Scheme.
	Port  int32
	Fleet string
}

// Explanation is which route answers a request and what happens to the request
// there. It says what the Plan does, not what a caller's credentials or the
// limits' counters make of it. Its JSON is that of weir.admin.v1.Explanation.
type Explanation struct {
	Request CanonicalRequest `json:"request"`
	// Refused is set when the edge answers before it looks for a route.
	Refused *EdgeAnswer `json:"refused,omitempty"`
	// Port, Chain and Host are the places that took the request, each with why.
	Port  *Choice `json:"port,omitempty"`
	Chain *Choice `json:"chain,omitempty"`
	Host  *Choice `json:"host,omitempty"`
	// Candidates are the routes of the host in order of precedence: those before
	// the one that answers and why each did not, that one, and later ones that
	// match as well. At most 64; MoreCandidates counts those left out, which
	// differ from the request in their path.
	Candidates     []Candidate `json:"candidates,omitempty"`
	MoreCandidates int         `json:"moreCandidates,omitempty"`
	// Route is the id of the one that answers; empty when none does.
	Route  string  `json:"route,omitempty"`
	Origin *Origin `json:"origin,omitempty"`
	// Policies in order of precedence, by kind.
	Policies       []PolicyExplanation `json:"policies,omitempty"`
	Authentication *AuthExplanation    `json:"authentication,omitempty"`
	Limits         []LimitExplanation  `json:"limits,omitempty"`
	// Settings are the route's other properties, by their path, such as
	// "CORS.allowOrigins".
	Settings    []Setting    `json:"settings,omitempty"`
	Destination *Destination `json:"destination,omitempty"`
	Notes       []string     `json:"notes,omitempty"`
}

// CanonicalRequest is the request as the edge compares it.
type CanonicalRequest struct {
	Method string `json:"method"`
	Host   string `json:"host"`
	Path   string `json:"path"`
	Query  string `json:"query,omitempty"`
	Scheme string `json:"scheme,omitempty"`
	SNI    string `json:"sni,omitempty"`
	Port   int32  `json:"port,omitempty"`
	Fleet  string `json:"fleet,omitempty"`
}

// EdgeAnswer is an answer of the edge itself.
type EdgeAnswer struct {
	Status int    `json:"status"`
	Reason string `json:"reason"`
}

// Choice is something taken and why.
type Choice struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Outcomes of a Candidate.
const (
	// CandidateAnswers is the one route that answers.
	CandidateAnswers = "answers"
	// CandidateFails does not match; Reason has the first part that differs.
	CandidateFails = "fails"
	// CandidateLoses matches too, and comes later.
	CandidateLoses = "loses"
)

// Candidate is a route that was looked at.
type Candidate struct {
	Route   string `json:"route"`
	Origin  Origin `json:"origin"`
	Match   string `json:"match"`
	Outcome string `json:"outcome"`
	// Part is what failed: path, method, header, query or content-type.
	Part   string `json:"part,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// PolicyExplanation is a PolicyUse for people.
type PolicyExplanation struct {
	Policy    Origin   `json:"policy"`
	Level     string   `json:"level,omitempty"`
	Overrides bool     `json:"overrides,omitempty"`
	Effect    string   `json:"effect"`
	By        []Origin `json:"by,omitempty"`
	Reason    string   `json:"reason,omitempty"`
}

// Setting is one property of a route.
type Setting struct {
	Path  string `json:"path"`
	Value string `json:"value"`
}

// maxCandidates bounds what Explain lists.
const maxCandidates = 64

// Explain answers a question from a Plan. It is pure and safe for concurrent
// use. Its choice of the route is that of Envoy with the configuration that the
// Plan compiles to; a test compares the two.
func Explain(plan *Plan, question Question) *Explanation {
	e := newExplainer(plan, question)
	switch {
	case !e.connect():
	case e.chain.Forward != nil:
		e.forward()
	case e.request(question) && e.pickHost():
		e.choose()
	}
	return e.out
}

type explainer struct {
	plan  *Plan
	out   *Explanation
	match matchRequest
	sni   string
	port  *Port
	chain *Chain
	host  *Host
}

func newExplainer(plan *Plan, q Question) *explainer {
	host, port := splitHostPort(q.Host)
	path, query, _ := strings.Cut(cmp.Or(q.Path, "/"), "?")
	return &explainer{plan: plan, sni: strings.ToLower(cmp.Or(q.SNI, host)), out: &Explanation{Request: CanonicalRequest{
		Method: cmp.Or(q.Method, "GET"), Host: strings.ToLower(host), Path: path, Query: query, Scheme: strings.ToLower(q.Scheme),
		Fleet: q.Fleet, Port: cmp.Or(q.Port, port), SNI: strings.ToLower(cmp.Or(q.SNI, host)),
	}}}
}

// request makes the request what the edge compares, and reports whether it is
// one that gets that far.
func (e *explainer) request(q Question) bool {
	edge := e.chain.Settings()
	canonical, query, refusal := canonicalPath(cmp.Or(q.Path, "/"), &edge)
	e.out.Request.Path, e.out.Request.Query = canonical, query
	headers := make([]Header, 0, len(q.Headers))
	for _, header := range q.Headers {
		lower := strings.ToLower(header.Name)
		switch underscore := strings.Contains(lower, "_"); {
		case underscore && edge.Underscores == v1alpha1.UnderscoresReject:
			e.out.Refused = &EdgeAnswer{Status: 400, Reason: fmt.Sprintf("the header name %q has an underscore", header.Name)}
			return false
		case underscore && edge.Underscores == v1alpha1.UnderscoresDrop, reservedHeader(lower):
			e.note("%s is removed from every request at the edge, so no route sees it", lower)
		default:
			headers = append(headers, header)
		}
	}
	if refusal != nil {
		e.out.Refused = refusal
		return false
	}
	if !slices.ContainsFunc(headers, func(h Header) bool { return strings.EqualFold(h.Name, "host") }) {
		headers = append(headers, Header{Name: "host", Value: e.out.Request.Host})
	}
	e.match = newMatchRequest(e.out.Request.Method, canonical, query, headers)
	return true
}

func (e *explainer) note(format string, args ...any) {
	e.out.Notes = append(e.out.Notes, fmt.Sprintf(format, args...))
}

// connect finds port and chain, and reports whether there is one.
func (e *explainer) connect() bool {
	e.port = e.pickPort()
	if e.port == nil {
		return false
	}
	e.out.Request.Port = e.port.Number
	e.chain = e.pickChain()
	return e.chain != nil
}

// forward explains a connection that is passed on without a look at its
// requests.
func (e *explainer) forward() {
	e.out.Policies = explainPolicies(e.chain.Policies)
	origin := e.chain.Forward.Origin
	e.out.Origin = &origin
	if !slices.ContainsFunc(e.chain.Forward.Backends, func(b WeightedBackend) bool { return b.Backend != "" }) {
		e.out.Refused = &EdgeAnswer{Reason: "connections for this server name are closed: no backend resolves, or the listener's policy is broken"}
		return
	}
	e.out.Destination = &Destination{
		Action: "forward", Reason: "the connection is passed on as it is: its requests are not looked at", Backends: e.backends(e.chain.Forward.Backends),
	}
	e.out.Settings = chainSettings(e.chain)
}

// atAddresses says where a port is bound, where Gateways ask for addresses.
func atAddresses(plan *Plan, port *Port) string {
	var others []string
	for i := range plan.Ports {
		if other := &plan.Ports[i]; other != port && other.Fleet == port.Fleet && other.Number == port.Number {
			others = append(others, addressText(other))
		}
	}
	if len(others) == 0 {
		return ""
	}
	return fmt.Sprintf(", here at %s; other listeners serve it at %s", addressText(port), strings.Join(others, " and "))
}

func addressText(port *Port) string {
	text := make([]string, len(port.Addresses))
	for i, address := range port.Addresses {
		text[i] = cmp.Or(address, "the proxy's own address")
	}
	return cmp.Or(strings.Join(text, ", "), "the proxy's own address")
}

func (e *explainer) pickPort() *Port {
	wanted := &e.out.Request
	var numbers []string
	var first *Port
	for i := range e.plan.Ports {
		port := &e.plan.Ports[i]
		if port.Fleet != wanted.Fleet {
			continue
		}
		numbers = append(numbers, strconv.Itoa(int(port.Number)))
		switch {
		case wanted.Port == port.Number:
			e.out.Port = &Choice{strconv.Itoa(int(port.Number)), "is asked for" + atAddresses(e.plan, port)}
			return port
		case wanted.Port != 0 || !servesScheme(port, wanted.Scheme):
		case first == nil || port.Number == wellKnownPort(wanted.Scheme):
			first = port
		}
	}
	if first != nil {
		e.out.Port = &Choice{strconv.Itoa(int(first.Number)), "the request names no port, and this is the first that serves " + cmp.Or(wanted.Scheme, "anything")}
		return first
	}
	what := "a port for " + cmp.Or(wanted.Scheme, "requests")
	if wanted.Port != 0 {
		what = fmt.Sprintf("port %d", wanted.Port)
	}
	e.out.Refused = &EdgeAnswer{Reason: fmt.Sprintf("no listener serves %s%s; there are: %s", what, ofFleet(wanted.Fleet), cmp.Or(strings.Join(numbers, ", "), "none"))}
	return nil
}

func ofFleet(fleet string) string {
	if fleet == "" {
		return ""
	}
	return " in fleet " + fleet
}

func wellKnownPort(scheme string) int32 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// servesScheme reports whether a port speaks http, https, or, for "", anything.
func servesScheme(port *Port, scheme string) bool {
	return scheme == "" || slices.ContainsFunc(port.Chains, func(c Chain) bool { return (c.Name == PlainChain) == (scheme == "http") })
}

func (e *explainer) pickChain() *Chain {
	names := make([]string, len(e.port.Chains))
	for i := range e.port.Chains {
		names[i] = e.port.Chains[i].Name
	}
	if len(e.port.Chains) == 1 && e.port.Chains[0].Name == PlainChain {
		if e.out.Request.Scheme == "https" {
			e.out.Refused = &EdgeAnswer{Reason: fmt.Sprintf("port %d speaks plain HTTP: a TLS handshake fails there", e.port.Number)}
			return nil
		}
		e.out.Chain = &Choice{PlainChain, "the port speaks plain HTTP"}
		e.out.Request.SNI = ""
		return &e.port.Chains[0]
	}
	if e.out.Request.Scheme == "http" {
		e.out.Refused = &EdgeAnswer{Reason: fmt.Sprintf("port %d speaks TLS: plain HTTP is not understood there", e.port.Number)}
		return nil
	}
	best, rank := -1, 0
	for i := range e.port.Chains {
		if r := rankServerNames(e.port.Chains[i].ServerNames, e.sni); r > rank {
			best, rank = i, r
		}
	}
	if best < 0 {
		e.out.Refused = &EdgeAnswer{Reason: fmt.Sprintf("no chain of port %d serves the server name %q: the TLS handshake is refused; there are: %s",
			e.port.Number, e.sni, strings.Join(names, ", "))}
		return nil
	}
	e.out.Chain = &Choice{names[best], whyName(rank, "server name")}
	return &e.port.Chains[best]
}

// rankServerNames is 0 when none of names covers the name, else higher for the
// more specific: 1 for "all others", up to rankExact.
func rankServerNames(names []string, name string) int {
	if len(names) == 0 {
		return 1
	}
	rank := 0
	for _, candidate := range names {
		rank = max(rank, rankName(candidate, name))
	}
	return rank
}

// rankExact is above the rank of any wildcard, which is its length.
const rankExact = 1 << 16

func rankName(candidate, name string) int {
	candidate = strings.ToLower(candidate)
	switch {
	case candidate == name && candidate != "":
		return rankExact
	case candidate == "*":
		return 1
	case strings.HasPrefix(candidate, "*.") && len(name) > len(candidate)-1 && strings.HasSuffix(name, candidate[1:]):
		return len(candidate)
	}
	return 0
}

func whyName(rank int, what string) string {
	switch rank {
	case rankExact:
		return "has exactly this " + what
	case 1:
		return "takes every " + what + " that no other one has"
	}
	return "its wildcard is the longest that covers the " + what
}

// pickHost finds the host, and reports whether there is one with routes.
func (e *explainer) pickHost() bool {
	name := e.out.Request.Host
	best, rank := -1, 0
	var names []string
	for i := range e.chain.Hosts {
		names = append(names, e.chain.Hosts[i].Name)
		if r := rankName(e.chain.Hosts[i].Name, name); r > rank {
			best, rank = i, r
		}
	}
	if best < 0 {
		const most = 10
		more := ""
		if len(names) > most {
			more = fmt.Sprintf(" and %d more", len(names)-most)
			names = names[:most]
		}
		e.out.Refused = &EdgeAnswer{Status: 404, Reason: fmt.Sprintf("no route serves the host %q on port %d; there are: %s%s",
			name, e.port.Number, cmp.Or(strings.Join(names, ", "), "none"), more)}
		return false
	}
	e.host = &e.chain.Hosts[best]
	e.out.Host = &Choice{e.host.Name, whyName(rank, "host")}
	if e.host.Misdirected {
		e.out.Refused = &EdgeAnswer{Status: 421, Reason: "another listener of the port serves this host: the client has to connect with its server name"}
		return false
	}
	return true
}

// choose goes through the host's routes and explains the one that answers.
func (e *explainer) choose() {
	var winner *Route
	var near, far []Candidate
	for i := range e.host.Routes {
		route := &e.host.Routes[i]
		part, reason, preflight := e.match.compare(route)
		candidate := Candidate{Route: route.ID, Origin: route.Origin, Match: route.Match.Text(route.GRPC), Part: part, Reason: reason}
		switch {
		case part == "" && winner == nil:
			winner, candidate.Outcome = route, CandidateAnswers
			if preflight {
				candidate.Reason = "a browser's preflight request for it"
			}
		case part == "":
			candidate.Outcome, candidate.Reason = CandidateLoses, "comes later: "+precedenceReason(winner, route)
		case winner != nil:
			continue
		default:
			candidate.Outcome = CandidateFails
		}
		if candidate.Part == partPath {
			far = append(far, candidate)
		} else {
			near = append(near, candidate)
		}
		e.out.Candidates = append(e.out.Candidates, candidate)
	}
	e.bound(near, far)
	if winner == nil {
		e.out.Refused = &EdgeAnswer{Status: 404, Reason: fmt.Sprintf("none of the %d routes of host %s matches", len(e.host.Routes), e.host.Name)}
		return
	}
	origin := winner.Origin
	e.out.Route, e.out.Origin = winner.ID, &origin
	e.explainRoute(winner)
}

// bound leaves out candidates whose path differs first, then the last ones.
func (e *explainer) bound(near, far []Candidate) {
	all := len(e.out.Candidates)
	if all <= maxCandidates {
		return
	}
	near = near[:min(len(near), maxCandidates)]
	far = far[:min(len(far), maxCandidates-len(near))]
	keep := map[Origin]bool{}
	for _, candidate := range slices.Concat(near, far) {
		keep[candidate.Origin] = true
	}
	kept := e.out.Candidates[:0]
	for _, candidate := range e.out.Candidates {
		if candidate.Outcome == CandidateAnswers || keep[candidate.Origin] && len(kept) < maxCandidates-1 {
			kept = append(kept, candidate)
		}
	}
	e.out.Candidates, e.out.MoreCandidates = kept, all-len(kept)
}

// splitHostPort takes a port off a host; 0 when there is none.
func splitHostPort(host string) (string, int32) {
	colon := strings.LastIndexByte(host, ':')
	if colon < 0 || strings.HasSuffix(host, "]") {
		return host, 0
	}
	port, err := strconv.ParseUint(host[colon+1:], 10, 16)
	if err != nil || strings.Contains(host[:colon], ":") && !strings.HasPrefix(host, "[") {
		return host, 0
	}
	return host[:colon], int32(port) //nolint:gosec // 16 bits
}
