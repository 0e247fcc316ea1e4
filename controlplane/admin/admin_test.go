package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// fake is a control plane whose source reads the store's file when told to.
type fake struct {
	t      *testing.T
	parser *policy.Parser
	files  []string

	mu    sync.Mutex
	state State
	woken chan struct{}
}

func (f *fake) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

func (f *fake) Await(ctx context.Context, until func(State) bool) error {
	for {
		f.mu.Lock()
		woken := f.woken
		f.mu.Unlock()
		if f.read(); until(f.State()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-woken:
		}
	}
}

func (f *fake) Options(fleet string) envoy.Options {
	return envoy.Options{ListenAddress: "127.0.0.1", ExtAuthzAddress: "a:1", RateLimitAddress: "b:1", Fleet: fleet}
}

// read does what a source and the loop do.
func (f *fake) read() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Input, f.state.Problems = policy.Input{}, nil
	for _, file := range f.files {
		raw, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(f.t, err)
		for _, document := range f.parser.Parse(file, raw) {
			f.state.Problems = append(f.state.Problems, document.Problems...)
			if document.Object != nil {
				f.state.Input.Objects = append(f.state.Input.Objects, document.Object)
			}
		}
	}
	plan, problems := policy.Resolve(f.state.Input)
	f.state.Plan, f.state.Problems = plan, append(f.state.Problems, problems...)
}

func newFake(t *testing.T) (*Server, *fake) {
	t.Helper()
	parser, err := policy.NewParser()
	require.NoError(t, err)
	store, err := NewStore(filepath.Join(t.TempDir(), "applied"), parser)
	require.NoError(t, err)
	f := &fake{t: t, parser: parser, woken: make(chan struct{}), files: []string{"../../policy/testdata/explain/policy.yaml", store.Path()}}
	rejection := &ads.Rejection{Node: "n", TypeURL: "t", Resources: []string{"r"}, Message: "m"}
	f.state = State{Acknowledged: "x", Time: time.Now(), Clients: []ads.Client{{Node: "n", Peer: "p", Rejected: rejection}}, Fleets: []Fleet{{
		Programmed: true, Clients: []Client{{Node: "n", Rejected: rejection}},
		Quarantined: []Quarantine{{Origin: policy.Origin{Object: policy.ObjectRef{Kind: "HTTPRoute", Namespace: "default", Name: "other"}, Field: "spec"}, Kept: true, Node: "n", Resource: "r", Message: "m"}},
	}}}
	f.read()
	return NewServer(Options{Running: f, Parser: parser, Peers: []string{"spiffe://weir.local/cli"}, Store: store, Logger: slog.New(slog.DiscardHandler)}), f
}

// as is a context of a call by an identity.
func as(t *testing.T, id string) context.Context {
	t.Helper()
	uri, err := url.Parse(id)
	require.NoError(t, err)
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{
		PeerCertificates: []*x509.Certificate{{URIs: []*url.URL{uri}}},
	}}})
}

// Every method refuses whom the configuration does not name: one that forgets
// to ask fails here.
func TestOnlyNamedPeersAreAnswered(t *testing.T) {
	server, _ := newFake(t)
	service := reflect.TypeFor[adminv1.AdminServiceServer]()
	called := 0
	for i := range service.NumMethod() {
		method := service.Method(i)
		if !method.IsExported() {
			continue
		}
		for _, ctx := range []context.Context{t.Context(), as(t, "spiffe://weir.local/ingress"), as(t, "spiffe://weir.local/cli/x")} {
			request := reflect.New(method.Type.In(1).Elem())
			answer := reflect.ValueOf(server).MethodByName(method.Name).Call([]reflect.Value{reflect.ValueOf(ctx), request})
			err, _ := answer[1].Interface().(error)
			require.Equal(t, codes.PermissionDenied, status.Code(err), method.Name)
		}
		called++
	}
	require.Equal(t, 15, called)
}

func TestAnswersHoldEveryField(t *testing.T) {
	server, f := newFake(t)
	ctx := as(t, "spiffe://weir.local/cli")
	state, err := server.GetStatus(ctx, &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	require.Equal(t, f.state.Plan.Digest, state.GetPlan())
	require.Equal(t, "r", state.GetFleets()[0].GetQuarantined()[0].GetResource())
	require.Equal(t, []string{"r"}, state.GetFleets()[0].GetClients()[0].GetRejected().GetResources())
	clients, err := server.ListClients(ctx, &adminv1.ListClientsRequest{})
	require.NoError(t, err)
	require.Equal(t, "p", clients.GetClients()[0].GetPeer())
	for _, path := range []string{"/v1/users?dry=1", "/old/x", "/nowhere", "/nothing", "/%2f"} {
		explanation, err := server.Explain(ctx, &adminv1.ExplainRequest{Method: "POST", Host: "api.example.com", Path: path, Headers: []*adminv1.Header{{Name: "X-Version", Value: "2"}}})
		require.NoError(t, err, path)
		require.NotNil(t, explanation.GetRequest())
	}
	translated, err := server.Translate(ctx, &adminv1.TranslateRequest{Types: []string{"rds"}})
	require.NoError(t, err)
	require.NotEmpty(t, translated.GetResources())
	problems, err := server.ListProblems(ctx, &adminv1.ListProblemsRequest{Severity: "error"})
	require.NoError(t, err)
	require.NotEmpty(t, problems.GetProblems())
	object, err := server.GetObject(ctx, &adminv1.GetObjectRequest{Name: "objects/httproute/default/api"})
	require.NoError(t, err)
	require.NotEmpty(t, object.GetRoutes()[0].GetPolicies())
	require.NotContains(t, object.String(), "c2VjcmV0", "a credential in a header modifier is shown")
	packed, err := server.GetPlan(ctx, &adminv1.GetPlanRequest{})
	require.NoError(t, err)
	plan, err := policy.DecodePlan(packed.GetContent())
	require.NoError(t, err)
	require.Empty(t, policy.Diff(f.state.Plan, plan))
}

func TestListObjectsInPages(t *testing.T) {
	server, f := newFake(t)
	ctx := as(t, "spiffe://weir.local/cli")
	var names []string
	request := &adminv1.ListObjectsRequest{PageSize: 2}
	for {
		page, err := server.ListObjects(ctx, request)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page.GetObjects()), 2)
		for _, object := range page.GetObjects() {
			names = append(names, object.GetName())
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	require.Len(t, names, len(f.state.Input.Objects))
	require.IsIncreasing(t, names)
	for _, bad := range []*adminv1.ListObjectsRequest{{PageSize: -1}, {PageToken: "not base64!"}} {
		_, err := server.ListObjects(ctx, bad)
		require.Equal(t, codes.InvalidArgument, status.Code(err))
	}
}

const backendYAML = "apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: missing}\nspec: {endpoints: [{address: 10.0.0.9, port: 80}]}\n"

func apply(t *testing.T, server *Server, change func(*adminv1.ApplyRequest), texts ...string) (*adminv1.ApplyResponse, error) {
	t.Helper()
	request := &adminv1.ApplyRequest{Wait: durationpb.New(20 * time.Second)}
	for _, text := range texts {
		request.Documents = append(request.Documents, &adminv1.Document{File: "change.yaml", Content: text})
	}
	if change != nil {
		change(request)
	}
	return server.Apply(as(t, "spiffe://weir.local/cli"), request)
}

func TestApplyStoresAllOrNothing(t *testing.T) {
	server, f := newFake(t)
	done, err := apply(t, server, nil, backendYAML)
	require.NoError(t, err)
	require.True(t, done.GetProgrammed())
	require.Equal(t, f.State().Plan.Digest, done.GetPlan())
	before, err := os.ReadFile(server.options.Store.Path())
	require.NoError(t, err)
	other := strings.Replace(backendYAML, "missing", "other", 1)
	for want, test := range map[string]struct {
		change func(*adminv1.ApplyRequest)
		texts  []string
		code   codes.Code
	}{
		"needs at least 1 entries":                       {nil, []string{other, strings.Replace(other, "[{address: 10.0.0.9, port: 80}]", "[]", 1)}, codes.InvalidArgument},
		"would have a new error: change.yaml:4: Backend": {nil, []string{strings.Replace(other, "[{address: 10.0.0.9, port: 80}]", "[]", 1)}, codes.InvalidArgument},
		"would have 2 new errors, such as: ": {nil, []string{
			strings.Replace(other, "[{address: 10.0.0.9, port: 80}]", "[]", 1), strings.Replace(strings.Replace(other, "other", "another", 1), "[{address: 10.0.0.9, port: 80}]", "[]", 1),
		}, codes.InvalidArgument},
		"is already defined":    {nil, []string{other, other}, codes.InvalidArgument},
		"WEIR5201":              {nil, []string{other, strings.Replace(backendYAML, "missing", "users", 1)}, codes.FailedPrecondition},
		"was not applied":       {func(r *adminv1.ApplyRequest) { r.Prune = []string{"Backend/users"} }, []string{other}, codes.FailedPrecondition},
		"there is no":           {func(r *adminv1.ApplyRequest) { r.Prune = []string{"Backend/none"} }, nil, codes.InvalidArgument},
		"is not Kind/namespace": {func(r *adminv1.ApplyRequest) { r.Prune = []string{"x"} }, nil, codes.InvalidArgument},
		"is outside 0s to":      {func(r *adminv1.ApplyRequest) { r.Wait = durationpb.New(time.Hour) }, []string{other}, codes.InvalidArgument},
		"YAML":                  {nil, []string{"a: [", other}, codes.InvalidArgument},
	} {
		_, err := apply(t, server, test.change, test.texts...)
		require.Equal(t, test.code, status.Code(err), "%s: %v", want, err)
		if want != "YAML" {
			require.Contains(t, err.Error(), want)
		}
		after, err := os.ReadFile(server.options.Store.Path())
		require.NoError(t, err)
		require.Equal(t, string(before), string(after), "half of it was applied: %s", want)
	}
	_, err = apply(t, server, nil, strings.Replace(other, "[{address: 10.0.0.9, port: 80}]", "[]", 1))
	require.True(t, slices.ContainsFunc(status.Convert(err).Details(), func(detail any) bool {
		problems, ok := detail.(*adminv1.ListProblemsResponse)
		return ok && len(problems.GetProblems()) == 1 && problems.GetProblems()[0].GetCode() == "WEIR2001" && problems.GetProblems()[0].GetLine() == 4
	}), "programs find the problems in the error")
	dry, err := apply(t, server, func(r *adminv1.ApplyRequest) { r.DryRun = true }, other)
	require.NoError(t, err)
	require.Len(t, dry.GetObjects(), 1)
	after, err := os.ReadFile(server.options.Store.Path())
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "a dry run stored something")

	// Nothing is deleted but what is named.
	_, err = apply(t, server, nil, other)
	require.NoError(t, err)
	held, err := server.options.Store.Load()
	require.NoError(t, err)
	require.Len(t, held, 2)
	_, err = apply(t, server, func(r *adminv1.ApplyRequest) { r.Prune = []string{"backend/default/other", "Backend/other"} }) // as weir get writes it, and twice
	require.NoError(t, err)
	held, err = server.options.Store.Load()
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.Equal(t, "missing", held[0].Ref.Name)
	_, err = apply(t, server, func(r *adminv1.ApplyRequest) { r.Prune = []string{"Backend/default/missing"} })
	require.Equal(t, codes.InvalidArgument, status.Code(err), "a route refers to it")
	_, err = apply(t, server, func(r *adminv1.ApplyRequest) { r.Prune = []string{"backend/default/Missing"} })
	require.ErrorContains(t, err, "there is no", "names are told apart by case")
}

// What has just left a followed folder is not taken for being there.
func TestApplyWhatLeavesAFolder(t *testing.T) {
	server, f := newFake(t)
	moved := filepath.Join(t.TempDir(), "moved.yaml")
	require.NoError(t, os.WriteFile(moved, []byte(backendYAML), 0o600))
	f.mu.Lock()
	f.files = append(f.files, moved)
	f.mu.Unlock()
	f.read()
	_, err := apply(t, server, nil, backendYAML)
	require.NoError(t, err)
	held, err := server.options.Store.Load()
	require.NoError(t, err)
	require.Empty(t, held, "it is followed, and the same")

	require.NoError(t, os.Remove(moved)) // what the source has not seen yet
	_, err = apply(t, server, nil, backendYAML)
	require.NoError(t, err)
	held, err = server.options.Store.Load()
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.True(t, slices.ContainsFunc(f.State().Input.Objects, func(o *policy.Object) bool { return o.Ref == held[0].Ref }))
}

// Apply does not say that it is served before it is.
func TestApplyWaitsForTheProxies(t *testing.T) {
	server, f := newFake(t)
	f.mu.Lock()
	f.state.Fleets = []Fleet{{Name: "blue", Waiting: "not acknowledged by envoy-1"}}
	f.mu.Unlock()
	done, err := apply(t, server, func(r *adminv1.ApplyRequest) { r.Wait = durationpb.New(50 * time.Millisecond) }, backendYAML)
	require.NoError(t, err)
	require.False(t, done.GetProgrammed())
	require.Equal(t, "fleet blue: not acknowledged by envoy-1", done.GetWaiting())
}

func TestDiffComparesWithWhatRuns(t *testing.T) {
	server, _ := newFake(t)
	ctx := as(t, "spiffe://weir.local/cli")
	request := &adminv1.DiffRequest{ResourceText: true, Documents: []*adminv1.Document{{File: "c.yaml", Content: backendYAML}}}
	found, err := server.Diff(ctx, request)
	require.NoError(t, err)
	require.Equal(t, "Backend default/missing", found.GetObjects()[0].GetName())
	require.NotEmpty(t, found.GetServed())
	require.NotEmpty(t, found.GetMended(), "the reference to it resolves now")
	require.True(t, len(found.GetResources()) > 0 && proto.Size(found) < 1<<20)
	_, err = server.Diff(ctx, &adminv1.DiffRequest{Documents: make([]*adminv1.Document, maxDocuments+1)})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}
