package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "weir.dev/api/gen/weir/data/v1" // What can be called is what is linked in.
	_ "weir.dev/api/gen/weir/user/v1"
	"weir.dev/cli/internal/call"
	"weir.dev/cli/internal/stack"
)

// servicePrefix is of the services that can be called.
const servicePrefix = "weir."

// maxMessage bounds one received message.
const maxMessage = 64 << 20

// mintToken is the value of a bare --token.
const mintToken = "fresh"

type callOptions struct {
	headers   []string
	token     string
	noAuth    bool
	plaintext string
	timeout   time.Duration
}

func (a *App) callCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "call METHOD [JSON|@FILE|-]", Short: "Make a gRPC call through the ingress", Args: arguments(1, 2),
		Long: "Make a gRPC call through the ingress, with the API key of weir credentials unless told otherwise.\n" +
			"METHOD is a full name such as weir.user.v1.UserService/ListOrganizations. The input is a JSON value,\n" +
			"or several for a method that takes a stream; - reads it from standard input. Services: \n  " +
			strings.Join(call.Services(protoregistry.GlobalFiles, servicePrefix), "\n  "),
		Example: "  weir call weir.user.v1.UserService/CreateOrganization '{\"organizationId\": \"acme\", \"organization\": {\"displayName\": \"Acme\"}}'",
	}
	var o callOptions
	o.flags(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error { return a.call(c.Context(), args, o) }
	return c
}

func (o *callOptions) flags(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&o.headers, "header", "H", nil, "send this `name: value`; may be given several times")
	flags.StringVar(&o.token, "token", "", "send a fresh token instead of the API key, or with --token=`TOKEN` that one")
	flags.Lookup("token").NoOptDefVal = mintToken
	flags.BoolVar(&o.noAuth, "no-auth", false, "send no credentials")
	flags.StringVar(&o.plaintext, "plaintext", "", "call this `host:port`, without TLS, instead of the ingress")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up after this long; 0 for never")
}

func (a *App) call(ctx context.Context, args []string, o callOptions) error {
	method, err := call.Method(protoregistry.GlobalFiles, args[0], servicePrefix)
	if err != nil {
		return usageError{err}
	}
	input, closeInput, err := a.callInput(args[1:])
	if err != nil {
		return usageError{err}
	}
	defer closeInput()
	return a.through(ctx, o, func(ctx context.Context, conn *grpc.ClientConn, headers metadata.MD) error {
		return call.Do(ctx, conn, call.Request{Method: method, Input: input, Headers: headers, Output: a.Stdout})
	})
}

// through connects to the ingress, or where the options say, for do.
func (a *App) through(ctx context.Context, o callOptions, do func(context.Context, *grpc.ClientConn, metadata.MD) error) error {
	headers, err := a.callHeaders(o)
	if err != nil {
		return err
	}
	target, err := a.callTarget(ctx, o)
	if err != nil {
		return err
	}
	if o.timeout < 0 {
		return usageError{fmt.Errorf("--timeout %s is negative", o.timeout)}
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	err = do(ctx, conn, headers)
	var bad *call.BadInput
	if err == nil || errors.As(err, &bad) {
		return err
	}
	return errors.New(call.Explain(err))
}

func (a *App) callInput(args []string) (io.Reader, func(), error) {
	nothing := func() {}
	switch {
	case len(args) == 0:
		return strings.NewReader(""), nothing, nil
	case args[0] == "-":
		return a.Stdin, nothing, nil
	case strings.HasPrefix(args[0], "@"):
		file, err := os.Open(args[0][1:])
		if err != nil {
			return nil, nil, fmt.Errorf("input: %w", err)
		}
		return file, func() { _ = file.Close() }, nil
	}
	return strings.NewReader(args[0]), nothing, nil
}

func (a *App) callHeaders(o callOptions) (metadata.MD, error) {
	md := metadata.MD{}
	for _, header := range o.headers {
		name, value, ok := strings.Cut(header, ":")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || !validHeaderName(name) {
			return nil, usageError{fmt.Errorf("--header %q is not name: value", name)}
		}
		md.Append(name, strings.TrimSpace(value))
	}
	switch {
	case o.noAuth && o.token != "":
		return nil, usageError{errors.New("--no-auth and --token contradict each other; give one of them")}
	case o.noAuth || len(md.Get("x-api-key")) > 0 || len(md.Get("authorization")) > 0:
		return md, nil
	case o.token != "" && o.token != mintToken:
		md.Set("authorization", "Bearer "+o.token)
		return md, nil
	}
	dir, err := a.state()
	if err != nil {
		return nil, err
	}
	credentials, err := a.credentials(dir)
	if err != nil {
		return nil, fmt.Errorf("%w; or give credentials by --token or --header, or --no-auth", err)
	}
	if o.token == mintToken {
		md.Set("authorization", "Bearer "+credentials.Token)
	} else {
		md.Set("x-api-key", credentials.APIKey)
	}
	return md, nil
}

func validHeaderName(name string) bool {
	return name != "" && !strings.HasPrefix(name, "grpc-") && strings.IndexFunc(name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_.", r)
	}) < 0
}

func (a *App) callTarget(ctx context.Context, o callOptions) (string, error) {
	if o.plaintext != "" {
		if _, _, err := net.SplitHostPort(o.plaintext); err != nil {
			return "", usageError{fmt.Errorf("--plaintext %q is not host:port", o.plaintext)}
		}
		return o.plaintext, nil
	}
	dir, err := a.state()
	if err != nil {
		return "", err
	}
	record, _, err := currentRecord(dir)
	if err != nil {
		return "", err
	}
	if record.IngressHTTP == "" {
		return "", fmt.Errorf("weir is not running; start it with %s up, or name an address with --plaintext", a.self())
	}
	base := stack.IngressURL(ctx, record)
	if strings.HasPrefix(base, "https://") {
		return "", fmt.Errorf("the policy serves TLS only, at %s; weir call needs a listener of protocol HTTP", base)
	}
	return stack.HostOf(base), nil
}
