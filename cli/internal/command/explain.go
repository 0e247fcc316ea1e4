package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"weir.dev/cli/internal/term"
	"weir.dev/policy"
)

type explainOptions struct {
	headers []string
	sni     string
	port    int32
	fleet   string
	alone   bool
	format  *string
	// decision is the id to look for instead, and log the audit log to look in.
	decision, log string
}

func (a *App) explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "explain REQUEST [PATH...]", Short: "Say which route answers a request, and under which policies", Args: arguments(0, 100),
		Long: "Say which route answers a request, why not another one, which policies reach it, which of them lost and to\n" +
			"which, who may call, how often, and where the request goes. REQUEST is a URL with or without a method before\n" +
			"it. The answer comes from the running control plane, or from policy folders and files when PATHs are given.\n" +
			"With --decision, say why a request was allowed or refused: ID is the decision's, or that of the request\n" +
			"(x-request-id of the answer). extauthz remembers the newest 2,000; older ones are in the audit log, if their policy\n" +
			"has them written, and are found there with --log. What Envoy refuses before it asks (400 for a path, 413, 503\n" +
			"POLICY_BROKEN) has no decision: REQUEST says why. Malformed requests are answered without an id.\n" +
			"Exits with 0 when a route answers or the decision is found, and with 1 when not.",
		Example: "  weir explain \"GET http://localhost/v1/organizations\"\n" +
			"  weir explain \"POST https://api.example.com/v1/data?dry=1\" -H \"X-Version: 2\" ./policies",
	}
	var o explainOptions
	c.Flags().StringArrayVarP(&o.headers, "header", "H", nil, "a `name: value` that the request has; may be given several times")
	c.Flags().StringVar(&o.sni, "sni", "", "server `name` of the TLS handshake (default the URL's host)")
	c.Flags().Int32Var(&o.port, "port", 0, "the listener's `port` (default the URL's, or the first that serves its scheme)")
	c.Flags().StringVar(&o.fleet, "fleet", "", "the `fleet` of proxies that is asked")
	c.Flags().BoolVar(&o.alone, "alone", false, "with PATHs, leave out what weir up adds")
	c.Flags().StringVar(&o.decision, "decision", "", "say why the decision with this `ID` came about")
	c.Flags().StringVar(&o.log, "log", "", "with --decision, look in the audit log in this `folder`")
	o.format = formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case o.decision != "" && len(args) == 0:
			return a.explainDecision(c.Context(), o.decision, o.log, *o.format)
		case o.decision != "":
			return usageError{errors.New("--decision takes no request; the decision has its own")}
		case len(args) == 0:
			return usageError{fmt.Errorf("%s needs an argument: %s", c.CommandPath(), c.UseLine())}
		}
		return a.explain(c.Context(), args[0], args[1:], o)
	}
	return c
}

func (a *App) explain(ctx context.Context, request string, paths []string, o explainOptions) error {
	if err := checkFormat(*o.format); err != nil {
		return err
	}
	question, err := parseRequest(request, o.headers)
	if err != nil {
		return usageError{err}
	}
	question.SNI, question.Fleet = o.sni, o.fleet
	if o.port != 0 {
		question.Port = o.port
	}
	explanation, err := a.explanation(ctx, question, paths, o.alone)
	if err != nil {
		return err
	}
	err = write(a.Stdout, *o.format, explanation, func(w io.Writer) { printExplanation(w, explanation) })
	if err == nil && explanation.Destination == nil {
		err = silentError{}
	}
	return err
}

func (a *App) explanation(ctx context.Context, question policy.Question, paths []string, alone bool) (*policy.Explanation, error) {
	if len(paths) == 0 {
		return a.askExplanation(ctx, question)
	}
	found, err := load(paths, alone)
	if err != nil {
		return nil, err
	}
	return policy.Explain(found.plan, question), nil
}

// maxRequestBytes bounds what a request line may hold, as Envoy does.
const maxRequestBytes = 60 << 10

// parseRequest reads "METHOD URL" or "URL". The URL is taken as it is: a client's
// cleaning up would hide what the edge does.
func parseRequest(text string, headers []string) (policy.Question, error) {
	var q policy.Question
	if len(text) > maxRequestBytes {
		return q, fmt.Errorf("the request has more than %d bytes", maxRequestBytes)
	}
	target := strings.TrimSpace(text)
	if method, rest, ok := strings.Cut(target, " "); ok && !strings.ContainsAny(method, ":/") {
		q.Method, target = strings.ToUpper(method), strings.TrimSpace(rest)
	}
	for _, header := range headers {
		name, value, ok := strings.Cut(header, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return q, fmt.Errorf("--header %q is not name: value", header)
		}
		if strings.EqualFold(name, "host") {
			q.Host = strings.TrimSpace(value)
			continue
		}
		q.Headers = append(q.Headers, policy.Header{Name: name, Value: strings.TrimSpace(value)})
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok {
		if !strings.HasPrefix(target, "/") {
			return q, fmt.Errorf("%q is not a request; write it like \"GET https://host/path\", or, if it is the id of one that was made, weir explain --decision ID", text)
		}
		q.Path = target
		return q, nil
	}
	if q.Scheme = strings.ToLower(scheme); q.Scheme != "http" && q.Scheme != "https" {
		return q, fmt.Errorf("the scheme %q is not http or https", scheme)
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if q.Path = rest[end:]; !strings.HasPrefix(q.Path, "/") {
		q.Path = "/" + q.Path
	}
	if rest[:end] == "" {
		return q, fmt.Errorf("%q names no host", text)
	}
	if q.Host == "" {
		q.Host = rest[:end]
	}
	return q, nil
}

func printExplanation(w io.Writer, e *policy.Explanation) {
	r := e.Request
	line := r.Method + " " + r.Host + r.Path
	if r.Query != "" {
		line += "?" + r.Query
	}
	fmt.Fprintf(w, "%s\n", line)
	choice := func(what string, c *policy.Choice) {
		if c != nil {
			fmt.Fprintf(w, "  %s %s: %s\n", what, c.Name, c.Reason)
		}
	}
	choice("port", e.Port)
	choice("chain", e.Chain)
	choice("host", e.Host)
	if e.Refused != nil {
		status := "no answer"
		if e.Refused.Status != 0 {
			status = fmt.Sprintf("answered with %d", e.Refused.Status)
		}
		fmt.Fprintf(w, "  %s: %s\n", status, e.Refused.Reason)
	}
	if e.Route != "" {
		fmt.Fprintf(w, "  route %s\n        %s\n", e.Route, e.Origin)
	}
	if e.Destination != nil {
		printDestination(w, e.Destination)
	}
	printAuthentication(w, e)
	printLimits(w, e.Limits)
	printPolicies(w, e.Policies)
	if len(e.Settings) > 0 {
		fmt.Fprintln(w, "\nsettings of the route")
		for _, setting := range e.Settings {
			fmt.Fprintf(w, "  %s: %s\n", setting.Path, setting.Value)
		}
	}
	printCandidates(w, e)
	for _, note := range e.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
}

func printDestination(w io.Writer, d *policy.Destination) {
	switch d.Action {
	case "redirect":
		fmt.Fprintf(w, "  answered with %d to %s\n", d.Status, d.Location)
	case "forward":
		if d.Reason != "" {
			fmt.Fprintf(w, "  %s\n", d.Reason)
		}
	case "answer":
		fmt.Fprintf(w, "  answered with %d: %s\n", d.Status, d.Reason)
	}
	for _, backend := range d.Backends {
		// What follows the name tells apart ways to connect to it: for programs.
		name, _, _ := strings.Cut(backend.Backend, "~")
		if name == "" {
			name = "a backend that does not resolve (answered with 500)"
		}
		fmt.Fprintf(w, "  %g %% to %s", backend.Percent, name)
		for _, part := range append([]string{backend.Protocol, strings.Join(backend.Endpoints, " "), backend.TLS}, backend.Changes...) {
			if part != "" {
				fmt.Fprintf(w, ", %s", part)
			}
		}
		fmt.Fprintln(w)
	}
	for _, part := range []struct{ what, value string }{
		{"sent as host", d.Host}, {"sent as path", d.Path}, {"timeout", d.Timeout}, {"timeout of one try", d.BackendTimeout},
	} {
		if part.value != "" {
			fmt.Fprintf(w, "  %s %s\n", part.what, part.value)
		}
	}
}

func printAuthentication(w io.Writer, e *policy.Explanation) {
	auth := e.Authentication
	if auth == nil {
		return
	}
	fmt.Fprintf(w, "\nwho may call, by %s\n", auth.Policy)
	if auth.Refuses {
		fmt.Fprintln(w, "  nobody: the policy is broken")
	}
	for _, way := range auth.Ways {
		fmt.Fprintf(w, "  %s %q: %s\n", way.Method, way.Name, way.Detail)
	}
	for _, way := range auth.LeftOut {
		fmt.Fprintf(w, "  %q is left out, and lets nobody in: %s (%s)\n", way.Name, way.Reason, way.Origin)
	}
	for i, rule := range auth.Rules {
		said := rule.When
		if len(rule.Requires) > 0 {
			said = strings.TrimPrefix(said+", needs "+strings.Join(rule.Requires, " and "), ", ")
		}
		fmt.Fprintf(w, "  rule %d, %s %q: %s\n", i+1, rule.Effect, rule.Name, said)
	}
	if len(auth.Rules) > 0 {
		fmt.Fprintf(w, "  when no rule holds: %s\n", auth.Otherwise)
	}
	if auth.Audit != "" {
		fmt.Fprintf(w, "  audit: %s\n", auth.Audit)
	}
	for _, candidate := range auth.Candidates {
		fmt.Fprintf(w, "  compared with %s, which is not in force: %s; weir get candidates has the counts\n", candidate.Policy, candidate.Origin)
	}
	for _, read := range auth.Reads {
		fmt.Fprintf(w, "  rules read %s\n", read)
	}
	for _, told := range auth.Upstream {
		fmt.Fprintf(w, "  the service gets %s\n", told)
	}
}

func printLimits(w io.Writer, limits []policy.LimitExplanation) {
	if len(limits) > 0 {
		fmt.Fprintln(w, "\nhow often")
	}
	for _, limit := range limits {
		by := "all together"
		if len(limit.By) > 0 {
			by = "each by " + strings.Join(limit.By, " and ")
		}
		fmt.Fprintf(w, "  %s, %s", limit.Limit, by)
		if limit.Shadow {
			fmt.Fprint(w, ", counted only (shadow)")
		}
		fmt.Fprintf(w, "; without the limiter: %s\n        %s\n", limit.FailureMode, limit.Policy)
		for _, tier := range limit.Tiers {
			fmt.Fprintf(w, "        tier %s\n", tier)
		}
	}
}

func printPolicies(w io.Writer, policies []policy.PolicyExplanation) {
	if len(policies) == 0 {
		return
	}
	fmt.Fprintln(w, "\npolicies that reach the route, in order of precedence")
	rows := [][]string{{"  POLICY", "ATTACHED TO", "EFFECT", "WHY"}}
	for _, p := range policies {
		why := p.Reason
		for i, by := range p.By {
			if i == 0 {
				why += " (by "
			} else {
				why += ", "
			}
			why += by.Object.String()
		}
		if len(p.By) > 0 {
			why += ")"
		}
		level := p.Level
		if p.Overrides {
			level += " (overrides)"
		}
		rows = append(rows, []string{"  " + p.Policy.Object.String(), level, p.Effect, strings.TrimSpace(why)})
	}
	term.Table(w, rows)
}

func printCandidates(w io.Writer, e *policy.Explanation) {
	if len(e.Candidates) == 0 {
		return
	}
	fmt.Fprintln(w, "\nroutes of the host, in order of precedence")
	for _, c := range e.Candidates {
		mark := map[string]string{policy.CandidateAnswers: "=>", policy.CandidateFails: " -", policy.CandidateLoses: " ~"}[c.Outcome]
		fmt.Fprintf(w, "%s %s  [%s]\n", mark, c.Match, c.Route)
		if c.Reason != "" {
			fmt.Fprintf(w, "     %s\n", c.Reason)
		}
	}
	if e.MoreCandidates > 0 {
		fmt.Fprintf(w, "   and %d more whose path differs\n", e.MoreCandidates)
	}
}
