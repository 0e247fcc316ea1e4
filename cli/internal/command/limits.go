package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	limitsv1 "weir.dev/api/gen/weir/limits/v1"
)

// limitPage is how many limits are asked for at once.
const limitPage = 1000

func (a *App) limitsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "limits", Short: "See what rate limits count, and reset a counter", Args: arguments(0, 0),
		Long: "See the rate limits in effect, who is refused most by them, and what a counter holds, and reset one.\n" +
			"A limit is named as NAMESPACE/POLICY/LIMIT; a counter also by what it counts separately, such as\n" +
			"consumer=default/shop, route=ID, remote_address=192.0.2.7, header.NAME=VALUE, and tier=NAME where the limit has tiers.\n" +
			"weir limits list shows the names that counters have. A reset is logged with who did it.",
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.limitsListCommand(), a.limitsGetCommand(), a.limitsResetCommand())
	return c
}

func (a *App) limitsListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list [PREFIX]", Short: "List rate limits, with the keys that were refused most in about the last hour", Args: arguments(0, 1),
		Example: "  weir limits list --refusing\n  weir limits list default/data-limits/",
	}
	refusing := c.Flags().Bool("refusing", false, "only limits that refused somebody lately")
	format := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		all := &adminv1.ListLimitsResponse{}
		err := a.ask(c.Context(), askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) error {
			for token := ""; ; {
				page, err := client.ListLimits(ctx, &adminv1.ListLimitsRequest{
					Prefix: strings.Join(args, ""), Refusing: *refusing, PageSize: limitPage, PageToken: token,
				})
				if err != nil {
					return err
				}
				all.Limits, all.Unreachable = append(all.Limits, page.GetLimits()...), page.GetUnreachable()
				if token = page.GetNextPageToken(); token == "" {
					return nil
				}
			}
		})
		if err != nil {
			return err
		}
		a.warnNoRateLimit(all.GetUnreachable())
		return a.writeMessage(*format, all, func(w io.Writer) { printLimitRules(w, all.GetLimits()) })
	}
	return c
}

func (a *App) limitsGetCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "get NAMESPACE/POLICY/LIMIT [NAME=VALUE...]", Short: "Show what a counter holds, without charging it", Args: arguments(1, 32),
		Example: "  weir limits get default/data-limits/per-consumer consumer=default/shop",
	}
	format := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		entries, err := counterEntries(*format, args[1:])
		if err != nil {
			return err
		}
		found := &adminv1.GetCounterResponse{}
		err = a.ask(c.Context(), askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) (err error) {
			found, err = client.GetCounter(ctx, &adminv1.GetCounterRequest{Rule: args[0], Entries: entries})
			return err
		})
		if err != nil {
			return err
		}
		return a.showCounters(*format, found, found.GetCounters(), found.GetUnreachable(), "")
	}
	return c
}

func (a *App) limitsResetCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "reset NAMESPACE/POLICY/LIMIT [NAME=VALUE...]", Short: "Forget what a counter holds, so that its allowance is whole again", Args: arguments(1, 32),
		Example: "  weir limits reset default/data-limits/per-consumer consumer=default/shop",
	}
	format := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		entries, err := counterEntries(*format, args[1:])
		if err != nil {
			return err
		}
		found := &adminv1.ResetCounterResponse{}
		err = a.ask(c.Context(), askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) (err error) {
			found, err = client.ResetCounter(ctx, &adminv1.ResetCounterRequest{Rule: args[0], Entries: entries})
			return err
		})
		if err != nil {
			return err
		}
		return a.showCounters(*format, found, found.GetCounters(), found.GetUnreachable(), "reset; it held before:")
	}
	return c
}

// counterEntries reads NAME=VALUE arguments.
func counterEntries(format string, args []string) ([]*limitsv1.Entry, error) {
	if err := checkFormat(format); err != nil {
		return nil, err
	}
	entries := make([]*limitsv1.Entry, 0, len(args))
	for _, arg := range args {
		name, value, both := strings.Cut(arg, "=")
		if !both || name == "" {
			return nil, usageError{fmt.Errorf("%q is not NAME=VALUE, such as consumer=default/shop", arg)}
		}
		entries = append(entries, &limitsv1.Entry{Name: name, Value: value})
	}
	return entries, nil
}

func (a *App) warnNoRateLimit(servers []*adminv1.UnreachableServer) {
	for _, server := range servers {
		fmt.Fprintf(a.Stderr, "weir: ratelimit at %s could not be asked: %s\n", server.GetAddress(), server.GetReason())
	}
}

// showCounters prints counters. None of them is an error, and so is a server that
// could not be told.
func (a *App) showCounters(format string, message proto.Message, found []*limitsv1.Counter, unreachable []*adminv1.UnreachableServer, title string) error {
	a.warnNoRateLimit(unreachable)
	if len(found) == 0 {
		return errors.New("no ratelimit server answered")
	}
	err := a.writeMessage(format, message, func(w io.Writer) {
		if title != "" {
			fmt.Fprintln(w, title)
		}
		printCounters(w, found)
	})
	if err == nil && len(unreachable) > 0 {
		return silentError{}
	}
	return err
}

func printLimitRules(w io.Writer, limits []*limitsv1.Limit) {
	if len(limits) == 0 {
		fmt.Fprintln(w, "no limits")
		return
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "LIMIT\tADMITS\tALGORITHM\tREFUSED MOST\tTIMES\tLAST")
	for _, limit := range limits {
		algorithm := limit.GetAlgorithm()
		if limit.GetShadow() {
			algorithm += " (shadow)"
		}
		row := fmt.Sprintf("%s\t%s\t%s", limit.GetRule(), admits(limit.GetRequests(), limit.GetBurst(), limit.GetWindow().AsDuration()), algorithm)
		if len(limit.GetOffenders()) == 0 {
			fmt.Fprintf(table, "%s\t-\t-\t-\n", row)
		}
		for _, offender := range limit.GetOffenders() {
			times := fmt.Sprint(offender.GetRefused())
			if offender.GetError() > 0 {
				times = fmt.Sprintf("%d..%d", offender.GetRefused()-offender.GetError(), offender.GetRefused())
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", row, entriesText(offender.GetEntries()), times, offender.GetLastTime().AsTime().Format(time.TimeOnly))
			row = "\t\t"
		}
	}
	_ = table.Flush() // The writer keeps its first error.
}

func admits(requests, burst uint32, window time.Duration) string {
	text := fmt.Sprintf("%d per %s", requests, shortDuration(window))
	if burst > 0 {
		text += fmt.Sprintf(", %d at once", burst)
	}
	return text
}

// shortDuration is without the zeros that Go writes: 1h and not 1h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func entriesText(entries []*limitsv1.Entry) string {
	texts := make([]string, 0, len(entries))
	for _, entry := range entries {
		texts = append(texts, printable(entry.GetName()+"="+entry.GetValue()))
	}
	if len(texts) == 0 {
		return "all together"
	}
	return strings.Join(texts, " ")
}

// printable keeps what a client sent from acting on the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, text)
}

func printCounters(w io.Writer, counters []*limitsv1.Counter) {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "LIMIT\tCOUNTER\tADMITS\tLEFT\tWHOLE AGAIN IN\tNEXT PASSES IN\tSERVER\tKEY")
	for _, counter := range counters {
		server := counter.GetServer()
		if counter.GetShared() {
			server = "shared"
		}
		next := "now"
		if wait := counter.GetRetryAfter().AsDuration(); wait > 0 {
			next = wait.Round(time.Millisecond).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", counter.GetRule(), entriesText(counter.GetEntries()),
			admits(counter.GetRequests(), counter.GetBurst(), counter.GetWindow().AsDuration()), counter.GetRemaining(),
			counter.GetReset_().AsDuration().Round(time.Millisecond), next, server, counter.GetKeyDigest())
	}
	_ = table.Flush()
}
