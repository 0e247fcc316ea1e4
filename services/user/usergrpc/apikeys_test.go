package usergrpc_test

import (
	"context"
	"crypto/sha256"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/kit/identity"
	"weir.dev/kit/keyformat"
	"weir.dev/services/user/store/sqlite"
)

type keyWorld struct {
	keys userv1.ApiKeyServiceClient
	feed keysv1.ApiKeyFeedServiceClient
}

func newKeyWorld(t *testing.T) keyWorld {
	t.Helper()
	storage, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "user.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, storage.Close()) })
	conn := serveOn(t, storage)
	return keyWorld{keys: userv1.NewApiKeyServiceClient(conn), feed: keysv1.NewApiKeyFeedServiceClient(conn)}
}

// caller is a consumer of the tenant "acme" with scopes.
func caller(t *testing.T, consumer, scopes string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), identity.HeaderTenant, "acme", identity.HeaderConsumer, consumer, identity.HeaderScopes, scopes)
}

func TestKeysLive(t *testing.T) {
	w := newKeyWorld(t)
	ctx := caller(t, "default/shop", "read write")
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	issued, err := w.keys.CreateApiKey(ctx, &userv1.CreateApiKeyRequest{ApiKey: &userv1.ApiKey{
		DisplayName: "CI", Scopes: []string{"read"}, ExpireTime: timestamppb.New(expires),
	}})
	require.NoError(t, err)
	id, ok := keyformat.Parse(issued.GetKey())
	require.True(t, ok)
	require.Equal(t, "apiKeys/"+id, issued.GetName())
	require.Equal(t, "default/shop", issued.GetConsumer(), "the caller's own")
	require.Equal(t, userv1.ApiKey_STATE_ACTIVE, issued.GetState())

	got, err := w.keys.GetApiKey(ctx, &userv1.GetApiKeyRequest{Name: issued.GetName()})
	require.NoError(t, err)
	require.Empty(t, got.GetKey(), "shown once")
	issued.Key = ""
	require.Equal(t, issued.String(), got.String())

	successor, err := w.keys.RotateApiKey(ctx, &userv1.RotateApiKeyRequest{Name: issued.GetName(), Overlap: durationpb.New(time.Minute)})
	require.NoError(t, err)
	require.NotEmpty(t, successor.GetKey())
	require.Equal(t, []string{"read"}, successor.GetScopes())
	require.WithinDuration(t, expires, successor.GetExpireTime().AsTime(), time.Minute, "as long as the old one was given")
	got, err = w.keys.GetApiKey(ctx, &userv1.GetApiKeyRequest{Name: issued.GetName()})
	require.NoError(t, err)
	require.Equal(t, successor.GetName(), got.GetReplacedBy())
	require.WithinDuration(t, time.Now().Add(time.Minute), got.GetExpireTime().AsTime(), 10*time.Second)
	_, err = w.keys.RotateApiKey(ctx, &userv1.RotateApiKeyRequest{Name: issued.GetName()})
	requireFault(t, err, codes.FailedPrecondition, "API_KEY_NOT_ACTIVE")

	revoked, err := w.keys.RevokeApiKey(ctx, &userv1.RevokeApiKeyRequest{Name: successor.GetName()})
	require.NoError(t, err)
	require.Equal(t, userv1.ApiKey_STATE_REVOKED, revoked.GetState())
	again, err := w.keys.RevokeApiKey(ctx, &userv1.RevokeApiKeyRequest{Name: successor.GetName()})
	require.NoError(t, err)
	require.Equal(t, revoked.String(), again.String(), "for good, and once")
	_, err = w.keys.RotateApiKey(ctx, &userv1.RotateApiKeyRequest{Name: successor.GetName()})
	requireFault(t, err, codes.FailedPrecondition, "API_KEY_NOT_ACTIVE")

	page, err := w.keys.ListApiKeys(ctx, &userv1.ListApiKeysRequest{Filter: `consumer = "default/shop"`, OrderBy: "create_time desc"})
	require.NoError(t, err)
	require.Len(t, page.GetApiKeys(), 2)
	require.Equal(t, successor.GetName(), page.GetApiKeys()[0].GetName())
	other := metadata.AppendToOutgoingContext(t.Context(), identity.HeaderTenant, "beta", identity.HeaderConsumer, "default/shop", identity.HeaderScopes, "apikeys.admin")
	_, err = w.keys.RevokeApiKey(other, &userv1.RevokeApiKeyRequest{Name: issued.GetName()})
	requireFault(t, err, codes.NotFound, "API_KEY_NOT_FOUND")
}

// Nobody gets more by a key than they had.
func TestKeysGiveNoMoreThanTheirIssuerHas(t *testing.T) {
	w := newKeyWorld(t)
	admin := caller(t, "default/admin", "apikeys.admin")
	strong, err := w.keys.CreateApiKey(admin, &userv1.CreateApiKeyRequest{ApiKey: &userv1.ApiKey{Consumer: "default/shop", Scopes: []string{"delete"}}})
	require.NoError(t, err, "the control: an administrator may")
	create := func(ctx context.Context, key *userv1.ApiKey) error {
		_, err := w.keys.CreateApiKey(ctx, &userv1.CreateApiKeyRequest{ApiKey: key})
		return err
	}
	shop := caller(t, "default/shop", "read")
	for name, err := range map[string]error{
		"a scope": create(shop, &userv1.ApiKey{Scopes: []string{"read", "delete"}}), "the scope of administrators": create(shop, &userv1.ApiKey{Scopes: []string{"apikeys.admin"}}),
		"another consumer": create(shop, &userv1.ApiKey{Consumer: "default/bank"}), "a consumer for nobody": create(caller(t, "", "read"), &userv1.ApiKey{Consumer: "default/shop"}),
		"rotate a stronger": func() error {
			_, err := w.keys.RotateApiKey(shop, &userv1.RotateApiKeyRequest{Name: strong.GetName()})
			return err
		}(),
		"revoke another's": func() error {
			_, err := w.keys.RevokeApiKey(caller(t, "default/bank", "read"), &userv1.RevokeApiKeyRequest{Name: strong.GetName()})
			return err
		}(),
	} {
		t.Run(name, func(t *testing.T) { requireFault(t, err, codes.PermissionDenied, "API_KEY_NOT_YOURS") })
	}
	for field, key := range map[string]*userv1.ApiKey{
		"api_key.consumer": {Consumer: "no slash"}, "api_key.scopes": {Scopes: []string{"two words"}},
		"api_key.expire_time": {ExpireTime: timestamppb.New(time.Now().Add(-time.Second))}, "api_key.display_name": {DisplayName: "a\nb"},
	} {
		requireFault(t, create(admin, key), codes.InvalidArgument, "INVALID_ARGUMENT", field)
	}
	requireFault(t, create(caller(t, "", "read"), &userv1.ApiKey{}), codes.InvalidArgument, "INVALID_ARGUMENT", "api_key.consumer")
	_, err = w.keys.RotateApiKey(admin, &userv1.RotateApiKeyRequest{Name: strong.GetName(), Overlap: durationpb.New(31 * 24 * time.Hour)})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "overlap")
}

// The feed starts anew where it can't go on, goes on where it can, and tells of
// each change at once.
// A key that ends leaves none behind that stays longer.
func TestKeysThatEndIssueNoneThatStay(t *testing.T) {
	w := newKeyWorld(t)
	shop := caller(t, "default/shop", "")
	create := func(ctx context.Context, expires time.Time) (*userv1.ApiKey, error) {
		key := &userv1.ApiKey{}
		if !expires.IsZero() {
			key.ExpireTime = timestamppb.New(expires)
		}
		return w.keys.CreateApiKey(ctx, &userv1.CreateApiKeyRequest{ApiKey: key})
	}
	rotate := func(ctx context.Context, key *userv1.ApiKey, expires time.Time) (*userv1.ApiKey, error) {
		request := &userv1.RotateApiKeyRequest{Name: key.GetName()}
		if !expires.IsZero() {
			request.ExpireTime = timestamppb.New(expires)
		}
		return w.keys.RotateApiKey(ctx, request)
	}
	ends := time.Now().Add(time.Hour).Truncate(time.Second)
	short, err := create(shop, ends)
	require.NoError(t, err)
	stays, err := create(shop, time.Time{})
	require.NoError(t, err, "the control: without a key that ends")
	as := func(key *userv1.ApiKey, scopes string) context.Context {
		return metadata.AppendToOutgoingContext(caller(t, "default/shop", scopes), identity.HeaderSubject, key.GetName())
	}
	child, err := create(as(short, ""), time.Time{})
	require.NoError(t, err)
	require.Equal(t, ends, child.GetExpireTime().AsTime().Local(), "as its issuer")
	_, err = create(as(short, ""), ends.Add(time.Second))
	requireFault(t, err, codes.PermissionDenied, "API_KEY_NOT_YOURS")
	_, err = rotate(as(short, ""), stays, time.Time{})
	requireFault(t, err, codes.PermissionDenied, "API_KEY_NOT_YOURS")
	_, err = rotate(as(short, ""), short, ends.Add(time.Hour))
	requireFault(t, err, codes.PermissionDenied, "API_KEY_NOT_YOURS")
	got, err := w.keys.GetApiKey(shop, &userv1.GetApiKeyRequest{Name: stays.GetName()})
	require.NoError(t, err)
	require.Empty(t, got.GetReplacedBy(), "nothing of it happened")

	for name, do := range map[string]func() error{
		"an earlier end":        func() error { _, err := create(as(short, ""), ends.Add(-time.Minute)); return err },
		"by one that stays":     func() error { _, err := create(as(stays, ""), time.Time{}); return err },
		"by an administrator's": func() error { _, err := create(as(short, "apikeys.admin"), time.Time{}); return err },
		"renewed":               func() error { _, err := rotate(as(short, ""), short, time.Time{}); return err },
	} {
		require.NoError(t, do(), name)
	}
	gone := &userv1.ApiKey{Name: "apiKeys/none"}
	_, err = create(as(gone, ""), time.Time{})
	require.Error(t, err, "a key that nobody knows issues nothing")
}

func TestFeed(t *testing.T) {
	w := newKeyWorld(t)
	admin := caller(t, "default/admin", "apikeys.admin")
	first, err := w.keys.CreateApiKey(admin, &userv1.CreateApiKeyRequest{ApiKey: &userv1.ApiKey{}})
	require.NoError(t, err)
	watch := func(epoch string, version int64) func(want int) *keysv1.WatchApiKeysResponse {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		t.Cleanup(cancel)
		stream, err := w.feed.WatchApiKeys(ctx, &keysv1.WatchApiKeysRequest{Epoch: epoch, Version: version})
		require.NoError(t, err)
		return func(want int) *keysv1.WatchApiKeysResponse {
			for {
				batch, err := stream.Recv()
				require.NoError(t, err)
				if want == 0 || len(batch.GetKeys()) > 0 {
					return batch
				}
			}
		}
	}
	next := watch("", 0)
	batch := next(1)
	require.True(t, batch.GetReset_())
	require.False(t, batch.GetMore())
	digest := sha256.Sum256([]byte(first.GetKey()))
	require.Equal(t, digest[:], batch.GetKeys()[0].GetSha256())
	require.Equal(t, "acme", batch.GetKeys()[0].GetTenant())
	_, err = w.keys.RevokeApiKey(admin, &userv1.RevokeApiKeyRequest{Name: first.GetName()})
	require.NoError(t, err)
	change := next(1)
	require.False(t, change.GetReset_())
	require.True(t, change.GetKeys()[0].GetRevoked())
	require.Greater(t, change.GetVersion(), batch.GetVersion())

	resumed := watch(batch.GetEpoch(), batch.GetVersion())(1)
	require.False(t, resumed.GetReset_())
	require.Len(t, resumed.GetKeys(), 1)
	alive := watch(change.GetEpoch(), change.GetVersion())(0)
	require.False(t, alive.GetReset_())
	require.Empty(t, alive.GetKeys(), "a sign of life")
	require.True(t, watch("another", change.GetVersion())(0).GetReset_())
	require.True(t, watch(change.GetEpoch(), change.GetVersion()+1)(0).GetReset_(), "a version that is not there yet")

	id, _ := keyformat.Parse(first.GetKey())
	used := time.Now().Truncate(time.Second)
	_, err = w.feed.ReportApiKeyUse(t.Context(), &keysv1.ReportApiKeyUseRequest{Uses: []*keysv1.KeyUse{{Id: id, Time: timestamppb.New(used)}}})
	require.NoError(t, err)
	got, err := w.keys.GetApiKey(admin, &userv1.GetApiKeyRequest{Name: first.GetName()})
	require.NoError(t, err)
	require.True(t, used.Equal(got.GetLastUseTime().AsTime()))
	_, err = w.feed.ReportApiKeyUse(t.Context(), &keysv1.ReportApiKeyUseRequest{Uses: make([]*keysv1.KeyUse, 1001)})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT")
}
