package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/cli/internal/term"
	"weir.dev/policy"
)

func (a *App) getCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "get [KIND]", Short: "List the objects that run, with what became of them", Args: arguments(0, 1),
		Long: "List the objects that run: whether they are accepted, whether the proxies have them (Programmed) and policies\n" +
			"are in effect (Enforced), how many problems they have, what they are attached to, and where they are defined.\n" +
			"What is so at some of an object's parents is Partly so. KIND is one such as HTTPRoute, in any case,\n" +
			"its plural or its short name.\n" +
			"`get candidates` lists AuthPolicies and rules in the shadow: what of the traffic they would decide otherwise.",
	}
	format := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		kind := ""
		if len(args) > 0 {
			if strings.EqualFold(args[0], "candidates") || strings.EqualFold(args[0], "candidate") {
				return a.getCandidates(c.Context(), *format)
			}
			var err error
			if kind, err = kindNamed(args[0]); err != nil {
				return err
			}
		}
		return a.get(c.Context(), kind, *format)
	}
	return c
}

func (a *App) get(ctx context.Context, kind, format string) error {
	all := &adminv1.ListObjectsResponse{}
	err := a.ask(ctx, askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) error {
		request := &adminv1.ListObjectsRequest{Kind: kind, PageSize: 1000}
		for {
			page, err := client.ListObjects(ctx, request)
			if err != nil {
				return err
			}
			all.Objects = append(all.Objects, page.GetObjects()...)
			if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
				return nil
			}
		}
	})
	if err != nil {
		return err
	}
	return a.writeMessage(format, all, func(w io.Writer) { printObjects(w, kind, all.GetObjects()) })
}

// writeMessage is write for a message.
func (a *App) writeMessage(format string, message proto.Message, text func(io.Writer)) error {
	if format == formatText {
		return write(a.Stdout, format, nil, text)
	}
	raw, err := protojson.Marshal(message)
	if err != nil {
		return err
	}
	return write(a.Stdout, format, json.RawMessage(raw), text)
}

func printObjects(w io.Writer, kind string, objects []*adminv1.Object) {
	if len(objects) == 0 {
		fmt.Fprintf(w, "there is no %s\n", strings.TrimSpace(kind+" object"))
		return
	}
	rows := [][]string{{"NAME", "ACCEPTED", "PROGRAMMED", "ENFORCED", "PROBLEMS", "ATTACHED TO", "AGE", "DEFINED AT"}}
	for _, object := range objects {
		problems := "-"
		if count := len(object.GetProblems()); count > 0 {
			problems = fmt.Sprint(count)
		}
		rows = append(rows, []string{
			strings.TrimPrefix(object.GetName(), "objects/"), conditionText(object, "Accepted"), conditionText(object, "Programmed"), conditionText(object, "Enforced"),
			problems, orDash(strings.Join(object.GetTargets(), ", ")), age(object), place(object.GetOrigin()),
		})
	}
	term.Table(w, rows)
}

// conditionText sums up an object's conditions of a type, of which there is one
// for each parent, with the reason of the first that is not true.
func conditionText(object *adminv1.Object, kind string) string {
	yes, reason, status, partly := 0, "", "", false
	for _, condition := range object.GetConditions() {
		switch {
		case condition.GetType() != kind:
		case condition.GetStatus() == "True":
			yes++
			partly = partly || condition.GetReason() == policy.ReasonPartly
		case reason == "":
			reason, status = condition.GetReason(), condition.GetStatus()
		}
	}
	switch {
	case reason == "" && yes == 0:
		return "-"
	case reason == "" && partly:
		return "True (" + policy.ReasonPartly + ")"
	case reason == "":
		return "True"
	case yes > 0:
		status = "Partly"
	}
	return status + " (" + reason + ")"
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// age is how long ago an object was made; files do not tell.
func age(object *adminv1.Object) string {
	if object.GetCreateTime() == nil {
		return "-"
	}
	since := time.Since(object.GetCreateTime().AsTime())
	const day = 24 * time.Hour
	if since > 2*day {
		return fmt.Sprintf("%dd", int(since/day))
	}
	return since.Truncate(time.Second).String()
}

func place(origin *adminv1.Origin) string {
	if origin.GetFile() == "" || origin.GetLine() == 0 {
		return orDash(origin.GetFile())
	}
	return fmt.Sprintf("%s:%d", origin.GetFile(), origin.GetLine())
}

func (a *App) describeCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "describe KIND/[NAMESPACE/]NAME", Short: "Show an object that runs: its document, conditions, routes, policies and problems",
		Args: arguments(1, 1), Example: "  weir describe httproute/user-rest",
	}
	format := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		return a.describe(c.Context(), args[0], *format)
	}
	return c
}

func (a *App) describe(ctx context.Context, name, format string) error {
	parts := strings.Split(name, "/")
	if len(parts) == 2 {
		parts = []string{parts[0], policy.DefaultNamespace, parts[1]}
	}
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return usageError{fmt.Errorf("%q is not KIND/NAME or KIND/NAMESPACE/NAME", name)}
	}
	kind, err := kindNamed(parts[0])
	if err != nil {
		return err
	}
	parts[0] = kind
	object := &adminv1.Object{}
	var missing error
	err = a.ask(ctx, askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) (err error) {
		object, err = client.GetObject(ctx, &adminv1.GetObjectRequest{Name: "objects/" + strings.Join(parts, "/")})
		if status.Code(err) != codes.NotFound {
			return err
		}
		others, listErr := client.ListObjects(ctx, &adminv1.ListObjectsRequest{Kind: kind, PageSize: maxSuggestions + 1})
		if listErr != nil {
			return err
		}
		missing = fmt.Errorf("no %s named %s in namespace %s runs; %s", kind, parts[2], parts[1], suggestion(kind, others.GetObjects()))
		return nil
	})
	if err = cmp.Or(err, missing); err != nil {
		return err
	}
	return a.writeMessage(format, object, func(w io.Writer) { printObject(w, object) })
}

// maxSuggestions bounds how many names an error lists.
const maxSuggestions = 10

func suggestion(kind string, objects []*adminv1.Object) string {
	if len(objects) == 0 {
		return "there is no " + kind + " at all"
	}
	var names []string
	for _, object := range objects[:min(len(objects), maxSuggestions)] {
		names = append(names, strings.TrimPrefix(object.GetName(), "objects/"))
	}
	if len(objects) > maxSuggestions {
		return "there are " + strings.Join(names, ", ") + " and more: weir get " + kind
	}
	return "there is " + strings.Join(names, ", ")
}

func printObject(w io.Writer, object *adminv1.Object) {
	ref := object.GetOrigin().GetObject()
	fmt.Fprintf(w, "%s %s/%s\n  defined at %s\n", ref.GetKind(), ref.GetNamespace(), ref.GetName(), place(object.GetOrigin()))
	if len(object.GetTargets()) > 0 {
		fmt.Fprintf(w, "  attached to %s\n", strings.Join(object.GetTargets(), ", "))
	}
	for _, attached := range object.GetAttached() {
		other := attached.GetObject()
		fmt.Fprintf(w, "  %s %s/%s is attached to it\n", other.GetKind(), other.GetNamespace(), other.GetName())
	}
	printConditions(w, object.GetConditions())
	if len(object.GetProblems()) > 0 {
		fmt.Fprintln(w, "\nproblems")
	}
	for _, problem := range object.GetProblems() {
		fmt.Fprintf(w, "  %s: %s:%d: %s: %s [%s]\n", problem.GetSeverity(), problem.GetFile(), problem.GetLine(), problem.GetField(), problem.GetMessage(), problem.GetCode())
		if fix := policy.Explanations()[policy.Code(problem.GetCode())]; fix != "" {
			fmt.Fprintf(w, "    %s\n", fix)
		}
	}
	printRoutes(w, object.GetRoutes())
	if raw, err := protojson.Marshal(object.GetDocument()); err == nil && object.GetDocument() != nil {
		fmt.Fprintln(w, "\ndocument")
		var page strings.Builder
		if writeYAML(&page, raw) == nil {
			for line := range strings.Lines(page.String()) {
				fmt.Fprint(w, "  "+line)
			}
		}
	}
}

func printConditions(w io.Writer, conditions []*adminv1.Condition) {
	if len(conditions) == 0 {
		return
	}
	fmt.Fprintln(w, "\nconditions")
	rows := [][]string{{"  TYPE", "STATUS", "REASON", "ABOUT", "MESSAGE"}}
	for _, c := range conditions {
		rows = append(rows, []string{"  " + c.GetType(), c.GetStatus(), orDash(c.GetReason()), orDash(c.GetAbout()), c.GetMessage()})
	}
	term.Table(w, rows)
}

func printRoutes(w io.Writer, routes []*adminv1.RoutePolicies) {
	if len(routes) > 0 {
		fmt.Fprintln(w, "\nroutes and the policies that reach them")
	}
	for _, route := range routes {
		fmt.Fprintf(w, "  %s  [%s]\n", route.GetMatch(), route.GetRoute())
		for _, use := range route.GetPolicies() {
			object := use.GetPolicy().GetObject()
			fmt.Fprintf(w, "    %s %s/%s (%s): %s", object.GetKind(), object.GetNamespace(), object.GetName(), use.GetLevel(), use.GetEffect())
			for _, by := range use.GetBy() {
				fmt.Fprintf(w, ", by %s/%s", by.GetObject().GetNamespace(), by.GetObject().GetName())
			}
			if use.GetReason() != "" {
				fmt.Fprintf(w, ": %s", use.GetReason())
			}
			fmt.Fprintln(w)
		}
	}
}
