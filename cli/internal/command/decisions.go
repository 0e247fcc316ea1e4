package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/cli/internal/term"
	"weir.dev/extauthz"
	"weir.dev/extauthz/audit"
	"weir.dev/extauthz/record"
)

// explainDecision prints why a decision came about, from the servers that
// remember it or from an audit log.
func (a *App) explainDecision(ctx context.Context, id, log, format string) error {
	if err := checkFormat(format); err != nil {
		return err
	}
	found := &adminv1.ListDecisionsResponse{}
	var err error
	if log == "" {
		err = a.ask(ctx, askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) (err error) {
			found, err = client.ListDecisions(ctx, &adminv1.ListDecisionsRequest{Id: id})
			return err
		})
	} else {
		found.Decisions, err = decisionsIn(ctx, log, id)
	}
	if err != nil {
		return err
	}
	a.warnUnreachable(found.GetUnreachable())
	if len(found.GetDecisions()) == 0 {
		where := "extauthz remembers no decision with that id: it has its newest ones only, look in the audit log with --log; or Envoy answered by itself and asked nobody: " +
			"`weir logs -n 10000 -o json envoy | grep ID` has the request, and `weir explain \"METHOD URL\"` says how its route answers"
		if log != "" {
			where = "the audit log has no decision with that id: its policy may not ask for a record"
		}
		return fmt.Errorf("%q: %s", id, where)
	}
	return a.writeMessage(format, found, func(w io.Writer) {
		for i, d := range found.GetDecisions() {
			if i > 0 {
				fmt.Fprintln(w)
			}
			printDecision(w, d)
		}
	})
}

func (a *App) warnUnreachable(servers []*adminv1.UnreachableServer) {
	for _, server := range servers {
		fmt.Fprintf(a.Stderr, "weir: extauthz at %s could not be asked: %s\n", server.GetAddress(), server.GetReason())
	}
}

// errEnough ends reading.
var errEnough = errors.New("enough")

// decisionsIn finds decisions in an audit log, the newest first.
func decisionsIn(ctx context.Context, dir, id string) (found []*decisionv1.Decision, err error) {
	const most = 100
	err = audit.Read(ctx, dir, audit.ReadOptions{}, func(_ int64, raw []byte) error {
		if !strings.Contains(string(raw), id) {
			return nil
		}
		d, err := record.Parse(raw)
		if err == nil && (d.GetId() == id || d.GetRequestId() == id) {
			if found = append(found, d); len(found) == most {
				return errEnough
			}
		}
		return nil
	})
	slices.Reverse(found)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, err
}

func printDecision(w io.Writer, d *decisionv1.Decision) {
	outcome := "refused"
	if d.GetAllowed() {
		outcome = "allowed"
	}
	r := d.GetRequest()
	path := r.GetPath()
	if r.GetQuery() != "" {
		path += "?" + r.GetQuery()
	}
	fmt.Fprintf(w, "%s: %s %s%s, from %s\n", outcome, r.GetMethod(), r.GetHost(), path, orDash(r.GetSource()))
	fmt.Fprintf(w, "  because   %s\n", why(d))
	if d.GetAllowed() {
		fmt.Fprintln(w, "  answered  by what comes after extauthz: limits, the route, the service; weir logs envoy has the status")
	}
	if d.GetCause() != "" {
		fmt.Fprintf(w, "  cause     %s\n", d.GetCause())
	}
	if c := d.GetCaller(); c != nil {
		fmt.Fprintf(w, "  caller    %s\n", callerText(c))
	}
	fmt.Fprintf(w, "  route     %s\n", orDash(d.GetRoute()))
	fmt.Fprintf(w, "  policy    %s, rules %s\n", orDash(d.GetPolicy()), orDash(d.GetDigest()))
	fmt.Fprintf(w, "  decision  %s by %s at %s in %s; request %s\n", d.GetId(), d.GetServer(),
		d.GetTime().AsTime().Format("2006-01-02T15:04:05.000Z07:00"), d.GetTook().AsDuration(), orDash(d.GetRequestId()))
	printSteps(w, "ways to be identified, in order", d.GetMethods(), methodText)
	printSteps(w, "rules, in order", d.GetRules(), ruleText)
	for i, v := range d.GetCandidates() {
		if i == 0 {
			fmt.Fprintln(w, "\nwhat is in the shadow would have said")
		}
		fmt.Fprintf(w, "  %s: %s%s\n", v.GetPolicy(), v.GetOutcome(), because(v.GetRule(), v.GetReason(), v.GetOutcome()))
	}
	if len(d.GetMissing()) > 0 {
		fmt.Fprintf(w, "\nnot recorded: %s\n", strings.Join(d.GetMissing(), ", "))
	}
}

// why is the reason in words.
func why(d *decisionv1.Decision) string {
	switch {
	case d.GetRule() != "" && d.GetReason() == string(extauthz.ReasonRuleError):
		return fmt.Sprintf("rule %q could not be evaluated (%s)", d.GetRule(), d.GetReason())
	case d.GetRule() != "" && slices.ContainsFunc(d.GetRules(), func(s *decisionv1.Step) bool { return s.GetName() == d.GetRule() && s.GetOutcome() == "not met" }):
		return fmt.Sprintf("rule %q requires what the caller lacks (%s)", d.GetRule(), d.GetReason())
	case d.GetRule() != "":
		return fmt.Sprintf("rule %q holds (%s)", d.GetRule(), d.GetReason())
	case d.GetAllowed() && len(d.GetRules()) > 0:
		return "no rule holds, and there is none that must (ALLOWED)"
	case d.GetAllowed():
		return "the caller is identified, and there are no rules (ALLOWED)"
	case d.GetReason() == string(extauthz.ReasonPermissionDenied) && d.GetCaller() != nil:
		return "no rule that allows holds (PERMISSION_DENIED)"
	default:
		return fmt.Sprintf("%s (%s)", extauthz.Reason(d.GetReason()).Fault().Message, d.GetReason())
	}
}

func because(rule, reason, outcome string) string {
	switch {
	case outcome == string(extauthz.OutcomeSame) || outcome == string(extauthz.OutcomeUndecided):
		return ""
	case rule != "":
		return fmt.Sprintf(", by rule %q", rule)
	case reason == "":
		return ""
	default:
		return ", " + reason
	}
}

func callerText(c *decisionv1.Caller) string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	add("consumer", c.GetConsumer())
	add("subject", c.GetSubject())
	add("of issuer", c.GetIssuer())
	add("tenant", c.GetTenant())
	add("tier", c.GetTier())
	add("scopes", strings.Join(c.GetScopes(), " "))
	if len(parts) == 0 {
		return "anonymous"
	}
	return strings.Join(parts, ", ")
}

func printSteps(w io.Writer, title string, steps []*decisionv1.Step, text func(*decisionv1.Step) []string) {
	if len(steps) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", title)
	var rows [][]string
	for _, step := range steps {
		rows = append(rows, text(step))
	}
	term.Table(w, rows)
}

func methodText(s *decisionv1.Step) []string {
	words := map[string]string{
		"absent": "finds no credential", "other": "finds something that is for another method", "unavailable": "could not ask whom it has to ask",
		"proved": "proves the caller", "refused": "refuses the credential", "ambiguous": "finds its credential more than once",
		"anonymous": "lets callers without credentials in", "not reached": "is not reached",
	}
	return []string{"  " + s.GetKind(), s.GetName(), words[s.GetOutcome()]}
}

func ruleText(s *decisionv1.Step) []string {
	words := map[string]string{"true": "holds: it decides", "false": "does not hold", "met": "refuses nothing", "not met": "requires what the caller lacks", "error": "cannot be evaluated, which refuses", "not reached": "is not reached"}
	return []string{"  " + s.GetEffect(), s.GetName(), words[s.GetOutcome()]}
}

// getCandidates lists what is in the shadow.
func (a *App) getCandidates(ctx context.Context, format string) error {
	found := &adminv1.ListCandidatesResponse{}
	err := a.ask(ctx, askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) (err error) {
		found, err = client.ListCandidates(ctx, &adminv1.ListCandidatesRequest{})
		return err
	})
	if err != nil {
		return err
	}
	a.warnUnreachable(found.GetUnreachable())
	return a.writeMessage(format, found, func(w io.Writer) { printCandidatesInShadow(w, found.GetCandidates()) })
}

func printCandidatesInShadow(w io.Writer, candidates []*decisionv1.Candidate) {
	if len(candidates) == 0 {
		fmt.Fprintln(w, "no request has been compared with a policy or rule in the shadow")
		return
	}
	for i, c := range candidates {
		if i > 0 {
			fmt.Fprintln(w)
		}
		var refuse, allow int64
		for _, flip := range c.GetFlips() {
			if flip.GetKind() == string(extauthz.OutcomeAllowToDeny) {
				refuse += flip.GetCount()
			} else {
				allow += flip.GetCount()
			}
		}
		fmt.Fprintf(w, "%s (rules %s, since %s)\n", c.GetPolicy(), c.GetDigest(), c.GetSince().AsTime().Format("2006-01-02 15:04:05"))
		fmt.Fprintf(w, "  would refuse %d and admit %d of %s that were decided otherwise\n", refuse, allow, plural(int(c.GetCompared()), "request"))
		for _, part := range []struct {
			count int64
			text  string
		}{
			{c.GetFailed(), "failed to be evaluated, and would have been refused"},
			{c.GetUndecided(), "not compared, because that would have had effects (a login, a proof used up)"},
			{c.GetDropped(), "not compared for want of time"},
		} {
			if part.count > 0 {
				fmt.Fprintf(w, "  %d %s\n", part.count, part.text)
			}
		}
		for _, flip := range c.GetFlips() {
			verb := "would admit"
			if flip.GetKind() == string(extauthz.OutcomeAllowToDeny) {
				verb = "would refuse"
			}
			fmt.Fprintf(w, "  %s %d%s; e.g. %s\n", verb, flip.GetCount(), because(flip.GetRule(), flip.GetReason(), flip.GetKind()), strings.Join(flip.GetExamples(), " "))
		}
	}
}
