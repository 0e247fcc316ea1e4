package usergrpc

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/services/internal/resource"
	"weir.dev/services/user"
)

// keyServer implements userv1.ApiKeyServiceServer. Safe for concurrent use.
type keyServer struct {
	userv1.UnimplementedApiKeyServiceServer
	service *user.Service
	clock   func() time.Time
}

// CreateApiKey implements userv1.ApiKeyServiceServer.
func (s *keyServer) CreateApiKey(ctx context.Context, in *userv1.CreateApiKeyRequest) (*userv1.ApiKey, error) {
	wanted := in.GetApiKey()
	expires, err := moment(wanted.GetExpireTime(), "api_key.expire_time")
	if err != nil {
		return nil, err
	}
	issued, err := s.service.CreateAPIKey(ctx, user.APIKey{
		DisplayName: wanted.GetDisplayName(), Consumer: wanted.GetConsumer(), Scopes: wanted.GetScopes(), ExpireTime: expires,
	})
	return answer(issued, err, s.toIssued)
}

// GetApiKey implements userv1.ApiKeyServiceServer.
func (s *keyServer) GetApiKey(ctx context.Context, in *userv1.GetApiKeyRequest) (*userv1.ApiKey, error) {
	key, err := s.service.GetAPIKey(ctx, in.GetName())
	return answer(key, err, s.toAPIKey)
}

// ListApiKeys implements userv1.ApiKeyServiceServer.
func (s *keyServer) ListApiKeys(ctx context.Context, in *userv1.ListApiKeysRequest) (*userv1.ListApiKeysResponse, error) {
	page, next, err := s.service.ListAPIKeys(ctx, request(in))
	if err != nil {
		return nil, err
	}
	return &userv1.ListApiKeysResponse{ApiKeys: all(page, s.toAPIKey), NextPageToken: next}, nil
}

// RotateApiKey implements userv1.ApiKeyServiceServer.
func (s *keyServer) RotateApiKey(ctx context.Context, in *userv1.RotateApiKeyRequest) (*userv1.ApiKey, error) {
	var overlap *time.Duration
	if given := in.GetOverlap(); given != nil {
		if err := given.CheckValid(); err != nil {
			return nil, resource.Invalid("the rotation can't be used").WithField("overlap", "is not a duration")
		}
		length := given.AsDuration()
		overlap = &length
	}
	expires, err := moment(in.GetExpireTime(), "expire_time")
	if err != nil {
		return nil, err
	}
	issued, err := s.service.RotateAPIKey(ctx, in.GetName(), overlap, expires, in.GetEtag())
	return answer(issued, err, s.toIssued)
}

// RevokeApiKey implements userv1.ApiKeyServiceServer.
func (s *keyServer) RevokeApiKey(ctx context.Context, in *userv1.RevokeApiKeyRequest) (*userv1.ApiKey, error) {
	key, err := s.service.RevokeAPIKey(ctx, in.GetName(), in.GetEtag())
	return answer(key, err, s.toAPIKey)
}

func (s *keyServer) toIssued(issued user.Issued) *userv1.ApiKey {
	key := s.toAPIKey(issued.APIKey)
	key.Key = issued.Secret
	return key
}

func (s *keyServer) toAPIKey(k user.APIKey) *userv1.ApiKey {
	key := &userv1.ApiKey{
		Name: k.Name(), DisplayName: k.DisplayName, Consumer: k.Consumer, Scopes: k.Scopes,
		ExpireTime: optional(k.ExpireTime), RevokeTime: optional(k.RevokeTime), LastUseTime: optional(k.LastUseTime),
		CreateTime: timestamppb.New(k.CreateTime), UpdateTime: timestamppb.New(k.UpdateTime), Etag: k.Etag(),
	}
	if k.ReplacedBy != "" {
		key.ReplacedBy = user.APIKey{ID: k.ReplacedBy}.Name()
	}
	switch k.State(s.clock()) {
	case user.KeyActive:
		key.State = userv1.ApiKey_STATE_ACTIVE
	case user.KeyExpired:
		key.State = userv1.ApiKey_STATE_EXPIRED
	case user.KeyRevoked:
		key.State = userv1.ApiKey_STATE_REVOKED
	}
	return key
}

// optional is nil for the zero time.
func optional(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// moment reads a time that may be missing.
func moment(at *timestamppb.Timestamp, field string) (time.Time, error) {
	if at == nil {
		return time.Time{}, nil
	}
	if err := at.CheckValid(); err != nil {
		return time.Time{}, resource.Invalid("a time can't be used").WithField(field, "is not a time")
	}
	return at.AsTime().Truncate(time.Microsecond), nil
}
