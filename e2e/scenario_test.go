package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"

	datav1 "weir.dev/api/gen/weir/data/v1"
	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/e2e/internal/harness"
)

// script calls methods over one transport and keeps a transcript in which what
// differs from run to run (times, etags) is blanked.
type script struct {
	t          *testing.T
	transport  harness.Transport
	transcript []string
	methods    map[string]bool
}

func (s *script) note(method string, outcome string) {
	s.methods[method] = true
	s.transcript = append(s.transcript, method[strings.LastIndex(method, "/")+1:]+" "+outcome)
}

// call must succeed.
func call[T proto.Message](s *script, method string, request proto.Message, response T) T {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(s.t, s.transport.Call(ctx, method, request, response), "%s %s", s.transport.Name(), method)
	s.note(method, blanked(s.t, response))
	return response
}

// refused must fail for the reason.
func (s *script) refused(method string, request proto.Message, reason string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	response := harness.Method(s.t, method).Output()
	err := s.transport.Call(ctx, method, request, newMessage(s.t, response))
	require.Error(s.t, err, "%s %s", s.transport.Name(), method)
	require.Equal(s.t, reason, reasonOf(err), "%s %s: %v", s.transport.Name(), method, err)
	s.note(method, "refused "+reason)
}

func newMessage(t *testing.T, descriptor protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	for _, known := range []proto.Message{
		&emptypb.Empty{}, &userv1.Organization{}, &userv1.User{}, &userv1.Membership{}, &userv1.Role{}, &datav1.Collection{}, &datav1.Record{},
		&datav1.ListRecordsResponse{}, &userv1.ListUsersResponse{},
	} {
		if known.ProtoReflect().Descriptor().FullName() == descriptor.FullName() {
			return known
		}
	}
	t.Fatalf("no message for %s", descriptor.FullName())
	return nil
}

func reasonOf(err error) string {
	var rest *harness.RESTError
	if errors.As(err, &rest) {
		return rest.Problem.Code
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return "no reason: " + err.Error()
}

func blanked(t *testing.T, message proto.Message) string {
	t.Helper()
	raw, err := protojson.Marshal(message)
	require.NoError(t, err)
	var value any
	require.NoError(t, json.Unmarshal(raw, &value))
	var walk func(any)
	walk = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			for _, name := range []string{"createTime", "updateTime", "etag", "nextPageToken"} {
				if _, ok := value[name]; ok {
					value[name] = "*"
				}
			}
			for _, part := range value {
				walk(part)
			}
		case []any:
			for _, part := range value {
				walk(part)
			}
		}
	}
	walk(value)
	out, err := json.Marshal(value)
	require.NoError(t, err)
	return string(out)
}

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

func object(t *testing.T, fields map[string]any) *structpb.Struct {
	t.Helper()
	made, err := structpb.NewStruct(fields)
	require.NoError(t, err)
	return made
}

func userScenario(s *script) {
	org := call(s, userv1.UserService_CreateOrganization_FullMethodName, &userv1.CreateOrganizationRequest{
		OrganizationId: "acme", Organization: &userv1.Organization{DisplayName: "Acmé & Söhne"},
	}, &userv1.Organization{})
	require.Equal(s.t, "organizations/acme", org.GetName())
	s.refused(userv1.UserService_CreateOrganization_FullMethodName, &userv1.CreateOrganizationRequest{
		OrganizationId: "acme", Organization: &userv1.Organization{DisplayName: "again"},
	}, "ORGANIZATION_ALREADY_EXISTS")
	call(s, userv1.UserService_GetOrganization_FullMethodName, &userv1.GetOrganizationRequest{Name: "organizations/acme"}, &userv1.Organization{})
	s.refused(userv1.UserService_GetOrganization_FullMethodName, &userv1.GetOrganizationRequest{Name: "organizations/nope"}, "ORGANIZATION_NOT_FOUND")
	updated := call(s, userv1.UserService_UpdateOrganization_FullMethodName, &userv1.UpdateOrganizationRequest{
		Organization: &userv1.Organization{Name: org.GetName(), DisplayName: "Acme", Etag: org.GetEtag()}, UpdateMask: mask("display_name"),
	}, &userv1.Organization{})
	require.Equal(s.t, "Acme", updated.GetDisplayName())
	s.refused(userv1.UserService_UpdateOrganization_FullMethodName, &userv1.UpdateOrganizationRequest{
		Organization: &userv1.Organization{Name: org.GetName(), DisplayName: "lost", Etag: org.GetEtag()}, UpdateMask: mask("display_name"),
	}, "ETAG_MISMATCH")
	call(s, userv1.UserService_ListOrganizations_FullMethodName, &userv1.ListOrganizationsRequest{}, &userv1.ListOrganizationsResponse{})

	for _, name := range []string{"ada", "bob", "cyd"} {
		call(s, userv1.UserService_CreateUser_FullMethodName, &userv1.CreateUserRequest{
			UserId: name, User: &userv1.User{Email: name + "@example.com", DisplayName: strings.ToUpper(name)},
		}, &userv1.User{})
	}
	s.refused(userv1.UserService_CreateUser_FullMethodName, &userv1.CreateUserRequest{
		UserId: "ada2", User: &userv1.User{Email: "ADA@example.com"},
	}, "EMAIL_ALREADY_EXISTS")
	call(s, userv1.UserService_GetUser_FullMethodName, &userv1.GetUserRequest{Name: "users/ada"}, &userv1.User{})
	page := call(s, userv1.UserService_ListUsers_FullMethodName, &userv1.ListUsersRequest{PageSize: 2}, &userv1.ListUsersResponse{})
	require.Len(s.t, page.GetUsers(), 2)
	page = call(s, userv1.UserService_ListUsers_FullMethodName, &userv1.ListUsersRequest{PageSize: 2, PageToken: page.GetNextPageToken()}, &userv1.ListUsersResponse{})
	require.Len(s.t, page.GetUsers(), 1)
	call(s, userv1.UserService_UpdateUser_FullMethodName, &userv1.UpdateUserRequest{
		User: &userv1.User{Name: "users/ada", DisplayName: "Ada"}, UpdateMask: mask("display_name"),
	}, &userv1.User{})

	call(s, userv1.UserService_ListRoles_FullMethodName, &userv1.ListRolesRequest{}, &userv1.ListRolesResponse{})
	call(s, userv1.UserService_CreateRole_FullMethodName, &userv1.CreateRoleRequest{
		RoleId: "auditor", Role: &userv1.Role{DisplayName: "Auditor", Permissions: []string{"records.read"}},
	}, &userv1.Role{})
	call(s, userv1.UserService_GetRole_FullMethodName, &userv1.GetRoleRequest{Name: "roles/auditor"}, &userv1.Role{})
	call(s, userv1.UserService_UpdateRole_FullMethodName, &userv1.UpdateRoleRequest{
		Role: &userv1.Role{Name: "roles/auditor", DisplayName: "Audit"}, UpdateMask: mask("display_name"),
	}, &userv1.Role{})

	call(s, userv1.UserService_CreateMembership_FullMethodName, &userv1.CreateMembershipRequest{
		Parent: "organizations/acme", Membership: &userv1.Membership{User: "users/ada", Roles: []string{"roles/owner", "roles/auditor"}},
	}, &userv1.Membership{})
	call(s, userv1.UserService_CreateMembership_FullMethodName, &userv1.CreateMembershipRequest{
		Parent: "organizations/acme", Membership: &userv1.Membership{User: "users/bob", Roles: []string{"roles/viewer"}},
	}, &userv1.Membership{})
	call(s, userv1.UserService_ListMemberships_FullMethodName, &userv1.ListMembershipsRequest{Parent: "organizations/acme"}, &userv1.ListMembershipsResponse{})
	call(s, userv1.UserService_GetMembership_FullMethodName, &userv1.GetMembershipRequest{Name: "organizations/acme/memberships/ada"}, &userv1.Membership{})
	call(s, userv1.UserService_UpdateMembership_FullMethodName, &userv1.UpdateMembershipRequest{
		Membership: &userv1.Membership{Name: "organizations/acme/memberships/bob", Roles: []string{"roles/editor"}}, UpdateMask: mask("roles"),
	}, &userv1.Membership{})
	call(s, userv1.UserService_DeleteMembership_FullMethodName, &userv1.DeleteMembershipRequest{Name: "organizations/acme/memberships/bob"}, &emptypb.Empty{})

	call(s, userv1.UserService_DeleteOrganization_FullMethodName, &userv1.DeleteOrganizationRequest{Name: "organizations/acme", Force: true}, &emptypb.Empty{})
	for _, name := range []string{"ada", "bob", "cyd"} {
		call(s, userv1.UserService_DeleteUser_FullMethodName, &userv1.DeleteUserRequest{Name: "users/" + name}, &emptypb.Empty{})
	}
	call(s, userv1.UserService_DeleteRole_FullMethodName, &userv1.DeleteRoleRequest{Name: "roles/auditor"}, &emptypb.Empty{})
}

func dataScenario(s *script) {
	schema := map[string]any{
		"type": "object", "required": []any{"title"},
		"properties": map[string]any{
			"title": map[string]any{"type": "string"}, "year": map[string]any{"type": "integer"}, "price": map[string]any{"type": "number"},
		},
	}
	collection := call(s, datav1.DataService_CreateCollection_FullMethodName, &datav1.CreateCollectionRequest{
		CollectionId: "books", Collection: &datav1.Collection{DisplayName: "Books", Schema: object(s.t, schema)},
	}, &datav1.Collection{})
	call(s, datav1.DataService_GetCollection_FullMethodName, &datav1.GetCollectionRequest{Name: "collections/books"}, &datav1.Collection{})
	call(s, datav1.DataService_ListCollections_FullMethodName, &datav1.ListCollectionsRequest{}, &datav1.ListCollectionsResponse{})
	call(s, datav1.DataService_UpdateCollection_FullMethodName, &datav1.UpdateCollectionRequest{
		Collection: &datav1.Collection{Name: collection.GetName(), DisplayName: "All books"}, UpdateMask: mask("display_name"),
	}, &datav1.Collection{})

	books := []map[string]any{
		{"title": "Ulysses", "year": 1922.0, "price": 9.5},
		{"title": "Momo", "year": 1973.0, "price": 7.25},
		{"title": "Ödipus", "year": -429.0},
		{"title": "Emma", "year": 1815.0, "price": 5.0},
	}
	for i, book := range books {
		call(s, datav1.DataService_CreateRecord_FullMethodName, &datav1.CreateRecordRequest{
			Parent: "collections/books", RecordId: fmt.Sprintf("book-%d", i), Record: &datav1.Record{Data: object(s.t, book)},
		}, &datav1.Record{})
	}
	once := &datav1.CreateRecordRequest{
		Parent: "collections/books", RecordId: "once", RequestId: "request-" + s.transport.Name(), Record: &datav1.Record{Data: object(s.t, books[0])},
	}
	first := call(s, datav1.DataService_CreateRecord_FullMethodName, once, &datav1.Record{})
	again := call(s, datav1.DataService_CreateRecord_FullMethodName, once, &datav1.Record{})
	require.True(s.t, proto.Equal(first, again), "an idempotent request gives the first answer")
	other := proto.Clone(once).(*datav1.CreateRecordRequest)
	other.Record.Data = object(s.t, books[1])
	s.refused(datav1.DataService_CreateRecord_FullMethodName, other, "IDEMPOTENCY_KEY_REUSED")
	s.refused(datav1.DataService_CreateRecord_FullMethodName, &datav1.CreateRecordRequest{
		Parent: "collections/books", Record: &datav1.Record{Data: object(s.t, map[string]any{"year": "x"})},
	}, "SCHEMA_VIOLATION")
	call(s, datav1.DataService_GetRecord_FullMethodName, &datav1.GetRecordRequest{Name: "collections/books/records/book-2"}, &datav1.Record{})
	s.refused(datav1.DataService_GetRecord_FullMethodName, &datav1.GetRecordRequest{Name: "collections/books/records/none"}, "RECORD_NOT_FOUND")
	filtered := call(s, datav1.DataService_ListRecords_FullMethodName, &datav1.ListRecordsRequest{
		Parent: "collections/books", Filter: `data.year > 1900 AND data.title != "Ulysses"`, OrderBy: "data.year desc",
	}, &datav1.ListRecordsResponse{})
	require.Len(s.t, filtered.GetRecords(), 1)
	s.refused(datav1.DataService_ListRecords_FullMethodName, &datav1.ListRecordsRequest{Parent: "collections/books", Filter: `data.year >`}, "INVALID_FILTER")
	var titles []string
	for token, pages := "", 0; pages == 0 || token != ""; pages++ {
		page := call(s, datav1.DataService_ListRecords_FullMethodName, &datav1.ListRecordsRequest{
			Parent: "collections/books", PageSize: 2, PageToken: token, OrderBy: "data.title",
		}, &datav1.ListRecordsResponse{})
		for _, record := range page.GetRecords() {
			titles = append(titles, record.GetData().GetFields()["title"].GetStringValue())
		}
		token = page.GetNextPageToken()
	}
	require.Equal(s.t, []string{"Emma", "Momo", "Ulysses", "Ulysses", "Ödipus"}, titles)
	record := call(s, datav1.DataService_UpdateRecord_FullMethodName, &datav1.UpdateRecordRequest{
		Record: &datav1.Record{Name: first.GetName(), Data: object(s.t, map[string]any{"title": "Ulysses II"}), Etag: first.GetEtag()},
	}, &datav1.Record{})
	require.NotEqual(s.t, first.GetEtag(), record.GetEtag())
	s.refused(datav1.DataService_UpdateRecord_FullMethodName, &datav1.UpdateRecordRequest{
		Record: &datav1.Record{Name: first.GetName(), Data: object(s.t, map[string]any{"title": "lost"}), Etag: first.GetEtag()},
	}, "ETAG_MISMATCH")
	call(s, datav1.DataService_DeleteRecord_FullMethodName, &datav1.DeleteRecordRequest{Name: first.GetName()}, &emptypb.Empty{})
	s.refused(datav1.DataService_GetRecord_FullMethodName, &datav1.GetRecordRequest{Name: first.GetName()}, "RECORD_NOT_FOUND")
	call(s, datav1.DataService_DeleteCollection_FullMethodName, &datav1.DeleteCollectionRequest{Name: "collections/books", Force: true}, &emptypb.Empty{})
}

// Every unary method of both services, over gRPC, gRPC-web and REST, on SQLite
// and on PostgreSQL: one transcript.
func TestEveryMethodOverEveryTransportAndStore(t *testing.T) {
	transcripts := map[string][]string{}
	for _, store := range []struct{ name, env string }{{"sqlite", "WEIR_POSTGRES_URL="}, {"postgres", "WEIR_POSTGRES_URL=" + postgres(t)}} {
		s := harness.Start(t, nil, store.env)
		for _, transport := range s.Transports(s.Key()...) {
			name := store.name + " over " + transport.Name()
			t.Run(name, func(t *testing.T) {
				run := &script{t: t, transport: transport, methods: map[string]bool{}}
				userScenario(run)
				dataScenario(run)
				transcripts[name] = run.transcript
				requireAllUnary(t, run.methods, userv1.File_weir_user_v1_user_proto, datav1.File_weir_data_v1_data_proto)
			})
		}
	}
	reference := transcripts["sqlite over grpc"]
	require.NotEmpty(t, reference)
	for name, transcript := range transcripts {
		require.Equal(t, reference, transcript, name)
	}
}

func requireAllUnary(t *testing.T, called map[string]bool, files ...protoreflect.FileDescriptor) {
	t.Helper()
	var missing []string
	for _, file := range files {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if method.IsStreamingClient() || method.IsStreamingServer() {
					continue // TestStreams
				}
				if name := fmt.Sprintf("/%s/%s", service.FullName(), method.Name()); !called[name] {
					missing = append(missing, name)
				}
			}
		}
	}
	slices.Sort(missing)
	require.Empty(t, missing, "methods that the scenario does not call")
}
