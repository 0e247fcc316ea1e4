package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/extauthz"
)

// shadowFlip is what a policy or rule in the shadow would have decided otherwise,
// for one reason.
type shadowFlip struct {
	Policy string `json:"policy"`
	// Rules is the digest of what is compared, and Since when that began.
	Rules string    `json:"rules"`
	Since time.Time `json:"since"`
	// Kind is "allow-to-deny" or "deny-to-allow"; Rule is empty where the reason is
	// no rule's.
	Kind   string `json:"kind"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Count of the requests, of those that were compared.
	Count    int64 `json:"count"`
	Compared int64 `json:"compared"`
	// Decisions are ids of the newest ones.
	Decisions []string `json:"decisions,omitempty"`
}

// flips asks what is in the shadow for what it would change. That it cannot be
// asked is no reason to keep problems back.
func (a *App) flips(ctx context.Context) []shadowFlip {
	found := &adminv1.ListCandidatesResponse{}
	err := a.ask(ctx, askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) (err error) {
		found, err = client.ListCandidates(ctx, &adminv1.ListCandidatesRequest{})
		return err
	})
	if err != nil {
		fmt.Fprintf(a.Stderr, "weir: what policies in the shadow would change is not known: %v\n", err)
		return nil
	}
	a.warnUnreachable(found.GetUnreachable())
	return flipsOf(found.GetCandidates())
}

func flipsOf(candidates []*decisionv1.Candidate) []shadowFlip {
	var list []shadowFlip
	for _, c := range candidates {
		for _, f := range c.GetFlips() {
			list = append(list, shadowFlip{
				Policy: c.GetPolicy(), Rules: c.GetDigest(), Since: c.GetSince().AsTime(), Compared: c.GetCompared(),
				Kind: f.GetKind(), Rule: f.GetRule(), Reason: f.GetReason(), Count: f.GetCount(), Decisions: f.GetExamples(),
			})
		}
	}
	return list
}

func printFlips(w io.Writer, flips []shadowFlip) {
	if len(flips) == 0 {
		return
	}
	fmt.Fprintln(w, "in the shadow, and not in force:")
	for _, f := range flips {
		verb := "admit"
		if f.Kind == string(extauthz.OutcomeAllowToDeny) {
			verb = "refuse"
		}
		fmt.Fprintf(w, "  %s would %s %d of %s since %s%s; e.g. %s\n", f.Policy, verb, f.Count, plural(int(f.Compared), "request"),
			f.Since.Format("2006-01-02 15:04:05"), because(f.Rule, f.Reason, f.Kind), strings.Join(f.Decisions, " "))
	}
	fmt.Fprint(w, "  look at one with: weir explain --decision ID\n\n")
}
