package call_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"

	datav1 "weir.dev/api/gen/weir/data/v1"
	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/cli/internal/call"
	"weir.dev/kit/fault"
)

type users struct {
	userv1.UnimplementedUserServiceServer
	header chan metadata.MD
}

func (s *users) ListOrganizations(ctx context.Context, request *userv1.ListOrganizationsRequest) (*userv1.ListOrganizationsResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.header <- md
	if ids := md.Get("answer-id"); len(ids) > 0 { // as the edge does: in the headers of what is passed on, in the trailers of what it answers
		set := grpc.SetTrailer
		if len(md.Get("in-headers")) > 0 {
			set = grpc.SetHeader
		}
		if err := set(ctx, metadata.Pairs("x-request-id", ids[0])); err != nil {
			return nil, err
		}
	}
	if request.GetPageSize() == 13 {
		return nil, fault.New(codes.InvalidArgument, "UNLUCKY", "no luck").WithField("page_size", "must not be 13").WithRetryAfter(time.Second)
	}
	return &userv1.ListOrganizationsResponse{Organizations: []*userv1.Organization{{Name: "organizations/acme"}}}, nil
}

type records struct {
	datav1.UnimplementedDataServiceServer
	cancelled chan error
}

func (s *records) ImportRecords(stream grpc.ClientStreamingServer[datav1.ImportRecordsRequest, datav1.ImportRecordsResponse]) error {
	for count := int64(0); ; count++ {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&datav1.ImportRecordsResponse{Imported: count})
		}
		if err != nil {
			s.cancelled <- err
			return err
		}
	}
}

func (s *records) ExportRecords(_ *datav1.ExportRecordsRequest, stream grpc.ServerStreamingServer[datav1.ExportRecordsResponse]) error {
	for range 3 {
		if err := stream.Send(&datav1.ExportRecordsResponse{}); err != nil {
			return err
		}
	}
	return nil
}

func serve(t *testing.T) (*grpc.ClientConn, *users, *records) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	u, r := &users{header: make(chan metadata.MD, 10)}, &records{cancelled: make(chan error, 1)}
	userv1.RegisterUserServiceServer(server, u)
	datav1.RegisterDataServiceServer(server, r)
	go server.Serve(listener) //nolint:errcheck // Ends with Stop.
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn, u, r
}

func do(t *testing.T, conn *grpc.ClientConn, method, input string, headers ...string) (string, error) {
	t.Helper()
	descriptor, err := call.Method(protoregistry.GlobalFiles, method, "weir.")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var output bytes.Buffer
	err = call.Do(ctx, conn, call.Request{
		Method: descriptor, Input: strings.NewReader(input), Headers: metadata.Pairs(append(headers, "x-api-key", "k")...), Output: &output,
	})
	return output.String(), err
}

func TestUnary(t *testing.T) {
	conn, server, _ := serve(t)
	for _, input := range []string{"", "{}", `{"pageSize": 1}`} {
		output, err := do(t, conn, "weir.user.v1.UserService/ListOrganizations", input)
		require.NoError(t, err)
		require.JSONEq(t, `{"organizations":[{"name":"organizations/acme"}]}`, output)
		require.Equal(t, []string{"k"}, (<-server.header).Get("x-api-key"))
	}
}

func TestStreams(t *testing.T) {
	conn, _, _ := serve(t)
	output, err := do(t, conn, "weir.data.v1.DataService/ImportRecords", strings.Repeat("{}\n", 1000))
	require.NoError(t, err)
	require.Contains(t, output, "1000")
	output, err = do(t, conn, "weir.data.v1.DataService/ExportRecords", "")
	require.NoError(t, err)
	require.Equal(t, "{}\n{}\n{}\n", output)
}

// What names the request is the error's own detail, or else the answer's header.
func TestRequestIDs(t *testing.T) {
	conn, _, _ := serve(t)
	for name, test := range map[string]struct {
		headers []string
		want    string
	}{
		"none":           {nil, ""},
		"in trailers":    {[]string{"answer-id", "abc-1"}, "\n  request: abc-1"},
		"in headers":     {[]string{"answer-id", "abc-1", "in-headers", "yes"}, "\n  request: abc-1"},
		"not printable":  {[]string{"answer-id", "a b"}, ""},
		"longer than is": {[]string{"answer-id", strings.Repeat("a", 129)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := do(t, conn, "weir.user.v1.UserService/ListOrganizations", `{"page_size":13}`, test.headers...)
			require.Equal(t, "INVALID_ARGUMENT: no luck\n  reason: UNLUCKY (weir.dev)\n  page_size: must not be 13\n  try again after: 1s"+test.want, call.Explain(err))
		})
	}
	_, err := do(t, conn, "weir.user.v1.UserService/GetUser", `{}`, "answer-id", "abc-1")
	require.NotContains(t, call.Explain(err), "request: ", "no answer names it")
}

func TestErrorsAreExplained(t *testing.T) {
	conn, _, _ := serve(t)
	_, err := do(t, conn, "weir.user.v1.UserService/ListOrganizations", `{"page_size":13}`)
	require.Equal(t, "INVALID_ARGUMENT: no luck\n  reason: UNLUCKY (weir.dev)\n  page_size: must not be 13\n  try again after: 1s", call.Explain(err))
	_, err = do(t, conn, "weir.user.v1.UserService/GetRole", "")
	require.Contains(t, call.Explain(err), "UNIMPLEMENTED: ")
	said := fault.New(codes.InvalidArgument, "INVALID", "prune: there is none").WithField("prune", "there is none")
	require.Equal(t, "INVALID_ARGUMENT: prune: there is none\n  reason: INVALID (weir.dev)", call.Explain(said.GRPCStatus().Err()), "not twice")
	said = fault.New(codes.InvalidArgument, "INVALID", "2 errors, such as: prune: there is none").WithField("prune", "there is none").WithField("wait", "is too long")
	require.Equal(t, "INVALID_ARGUMENT: 2 errors, such as: prune: there is none\n  reason: INVALID (weir.dev)\n  wait: is too long", call.Explain(said.GRPCStatus().Err()))
}

func TestBadInput(t *testing.T) {
	conn, _, records := serve(t)
	var bad *call.BadInput
	for input, want := range map[string]string{
		`{`:           "input message 1, ending at byte 0: not JSON: unexpected EOF",
		`{"size":1}`:  `unknown field "size"`,
		`{} {}`:       "one too many",
		`[]`:          "not a weir.user.v1.ListOrganizationsRequest",
		"{}\n{\"x\"}": "not JSON",
	} {
		_, err := do(t, conn, "weir.user.v1.UserService/ListOrganizations", input)
		require.ErrorAs(t, err, &bad, input)
		require.ErrorContains(t, err, want)
	}
	_, err := do(t, conn, "weir.data.v1.DataService/ImportRecords", "{}{}\n{\"x\":1}")
	require.ErrorAs(t, err, &bad)
	require.ErrorContains(t, err, "input message 3")
	select {
	case err := <-records.cancelled:
		require.Error(t, err)
	case <-time.After(time.Minute):
		t.Fatal("the server must see a cancelled call, not the end of the input")
	}
}

func TestUnknownMethods(t *testing.T) {
	for name, want := range map[string]string{
		"":                                    `no service ""`,
		"weir.user.v1.UserService/Lst":        "it has CreateOrganization",
		"weir.user.v2.UserService/List":       "known are weir.data.v1.DataService, weir.user.v1.ApiKeyService, weir.user.v1.UserService",
		"weir.user.v1.Organization/List":      "no service",
		"/weir.user.v1.UserService.ListUser":  `no method "ListUser"`,
		"weir.user.v1.UserService/List/Users": `no method "List/Users"`,
	} {
		_, err := call.Method(protoregistry.GlobalFiles, name, "weir.")
		require.ErrorContains(t, err, want)
	}
	_, err := call.Method(protoregistry.GlobalFiles, "weir.user.v1.UserService.ListUsers", "weir.")
	require.NoError(t, err)
}

func TestDescriptorSetIsComplete(t *testing.T) {
	set := call.DescriptorSet(protoregistry.GlobalFiles, "weir.")
	raw, err := proto.Marshal(set)
	require.NoError(t, err)
	require.NotEmpty(t, raw)
	files, err := protodesc.NewFiles(set)
	require.NoError(t, err)
	_, err = files.FindDescriptorByName("weir.data.v1.DataService")
	require.NoError(t, err)
}
