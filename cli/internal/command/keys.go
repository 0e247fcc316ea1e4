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
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	userv1 "weir.dev/api/gen/weir/user/v1"
)

// keyPage is how many keys are asked for at once.
const keyPage = 500

func (a *App) keysCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "keys", Short: "Issue, list, rotate and revoke API keys", Args: arguments(0, 0),
		Long: "Issue, list, rotate and revoke API keys, through the ingress, as the caller that weir call would be.\n" +
			"A key is shown once, when it is issued; a change is in force within a second.",
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.keysCreateCommand(), a.keysListCommand(), a.keysRotateCommand(), a.keysRevokeCommand())
	return c
}

// keyCommand gives a subcommand the flags of calls and of output.
func (a *App) keyCommand(c *cobra.Command, do func(ctx context.Context, keys userv1.ApiKeyServiceClient, args []string, asJSON bool) error) *cobra.Command {
	var o callOptions
	o.flags(c.Flags())
	format := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		return a.through(c.Context(), o, func(ctx context.Context, conn *grpc.ClientConn, headers metadata.MD) error {
			return do(metadata.NewOutgoingContext(ctx, headers), userv1.NewApiKeyServiceClient(conn), args, asJSON)
		})
	}
	return c
}

func (a *App) keysCreateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "create [NAME]", Short: "Issue an API key; NAME is for people", Args: arguments(0, 1),
		Example: "  weir keys create 'nightly import' --scope data:write --expires-in 720h",
	}
	consumer := c.Flags().String("consumer", "", "the `namespace/name` of the Consumer that calls with it (default the caller's own)")
	scopes := c.Flags().StringSlice("scope", nil, "give it this `scope`; may be given several times")
	expires := c.Flags().Duration("expires-in", 0, "refuse it after this long (default never)")
	return a.keyCommand(c, func(ctx context.Context, keys userv1.ApiKeyServiceClient, args []string, asJSON bool) error {
		key := &userv1.ApiKey{DisplayName: strings.Join(args, ""), Consumer: *consumer, Scopes: *scopes}
		if *expires != 0 {
			key.ExpireTime = timestamppb.New(time.Now().Add(*expires))
		}
		issued, err := keys.CreateApiKey(ctx, &userv1.CreateApiKeyRequest{ApiKey: key})
		if err != nil {
			return err
		}
		return a.printIssued(issued, asJSON)
	})
}

func (a *App) keysListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the API keys of the caller's tenant", Args: arguments(0, 0)}
	filter := c.Flags().String("filter", "", "only those that this `expression` is true of (AIP-160), such as consumer = \"default/shop\"")
	return a.keyCommand(c, func(ctx context.Context, keys userv1.ApiKeyServiceClient, _ []string, asJSON bool) error {
		all := &userv1.ListApiKeysResponse{}
		for token := ""; ; {
			page, err := keys.ListApiKeys(ctx, &userv1.ListApiKeysRequest{PageSize: keyPage, PageToken: token, Filter: *filter, OrderBy: "create_time"})
			if err != nil {
				return err
			}
			all.ApiKeys = append(all.ApiKeys, page.GetApiKeys()...)
			if token = page.GetNextPageToken(); token == "" {
				break
			}
		}
		switch {
		case asJSON && len(all.GetApiKeys()) == 0:
			return write(a.Stdout, formatJSON, map[string][]any{"apiKeys": {}}, nil) // which protojson leaves out
		case asJSON:
			return a.writeProto(all)
		}
		return printKeys(a.Stdout, all.GetApiKeys())
	})
}

func (a *App) keysRotateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate KEY", Short: "Replace an API key; the old one goes on being accepted for a while", Args: arguments(1, 1),
		Example: "  weir keys rotate apiKeys/x0... --overlap 1h",
	}
	overlap := c.Flags().Duration("overlap", 24*time.Hour, "accept the old key for this much longer; 0 for not at all")
	return a.keyCommand(c, func(ctx context.Context, keys userv1.ApiKeyServiceClient, args []string, asJSON bool) error {
		issued, err := keys.RotateApiKey(ctx, &userv1.RotateApiKeyRequest{Name: keyName(args[0]), Overlap: durationpb.New(*overlap)})
		if err != nil {
			return err
		}
		return a.printIssued(issued, asJSON)
	})
}

func (a *App) keysRevokeCommand() *cobra.Command {
	c := &cobra.Command{Use: "revoke KEY", Short: "Refuse an API key from now on, for good", Args: arguments(1, 1)}
	return a.keyCommand(c, func(ctx context.Context, keys userv1.ApiKeyServiceClient, args []string, asJSON bool) error {
		key, err := keys.RevokeApiKey(ctx, &userv1.RevokeApiKeyRequest{Name: keyName(args[0])})
		switch {
		case err != nil:
			return err
		case asJSON:
			return a.writeProto(key)
		}
		_, err = fmt.Fprintf(a.Stdout, "%s is revoked\n", key.GetName())
		return err
	})
}

// keyName also takes the id alone.
func keyName(given string) string {
	if strings.Contains(given, "/") {
		return given
	}
	return "apiKeys/" + given
}

// printIssued prints the key alone to standard output, for scripts, and what it
// is to standard error.
func (a *App) printIssued(key *userv1.ApiKey, asJSON bool) error {
	if asJSON {
		return a.writeProto(key)
	}
	expires := "never expires"
	if at := key.GetExpireTime(); at != nil {
		expires = "expires " + at.AsTime().Format(time.RFC3339)
	}
	fmt.Fprintf(a.Stderr, "%s of %s, %s; it is not shown again:\n", key.GetName(), key.GetConsumer(), expires)
	_, err := fmt.Fprintln(a.Stdout, key.GetKey())
	return err
}

func printKeys(out io.Writer, keys []*userv1.ApiKey) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tSTATE\tCONSUMER\tSCOPES\tEXPIRES\tLAST USED\tDISPLAY NAME")
	for _, key := range keys {
		state := strings.ToLower(strings.TrimPrefix(key.GetState().String(), "STATE_"))
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", key.GetName(), state, key.GetConsumer(),
			orNone(strings.Join(key.GetScopes(), " ")), keyTime(key.GetExpireTime()), keyTime(key.GetLastUseTime()), key.GetDisplayName())
	}
	return table.Flush()
}

func keyTime(at *timestamppb.Timestamp) string {
	if at == nil {
		return "never"
	}
	return at.AsTime().Format(time.RFC3339)
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func (a *App) writeProto(message proto.Message) error {
	raw, err := protojson.MarshalOptions{Multiline: true, Indent: "  "}.Marshal(message)
	if err != nil {
		return errors.Join(errors.New("the answer cannot be shown as JSON"), err)
	}
	_, err = a.Stdout.Write(append(raw, '\n'))
	return err
}
