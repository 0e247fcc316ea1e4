package usergrpc

import (
	"context"
	"time"

	"google.golang.org/grpc"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	"weir.dev/services/internal/resource"
	"weir.dev/services/user"
)

// FeedService is the full name of the service for the servers that check keys.
// No other peer may call it: it gives out the digests of all tenants' keys.
const FeedService = "weir.keys.v1.ApiKeyFeedService"

// feedServer implements keysv1.ApiKeyFeedServiceServer. Safe for concurrent use.
type feedServer struct {
	keysv1.UnimplementedApiKeyFeedServiceServer
	feed *user.KeyFeed
}

// WatchApiKeys implements keysv1.ApiKeyFeedServiceServer.
func (s *feedServer) WatchApiKeys(in *keysv1.WatchApiKeysRequest, stream grpc.ServerStreamingServer[keysv1.WatchApiKeysResponse]) error {
	return s.feed.Watch(stream.Context(), in.GetEpoch(), in.GetVersion(), func(batch user.KeyBatch) error {
		return stream.Send(&keysv1.WatchApiKeysResponse{
			Epoch: batch.Epoch, Version: batch.Version, Reset_: batch.Reset, More: batch.More, Keys: all(batch.Keys, toEntry),
		})
	})
}

func toEntry(k user.APIKey) *keysv1.KeyEntry {
	return &keysv1.KeyEntry{
		Id: k.ID, Sha256: k.SHA256[:], Tenant: k.Tenant, Consumer: k.Consumer, Scopes: k.Scopes,
		ExpireTime: optional(k.ExpireTime), Revoked: !k.RevokeTime.IsZero(),
	}
}

// ReportApiKeyUse implements keysv1.ApiKeyFeedServiceServer.
func (s *feedServer) ReportApiKeyUse(ctx context.Context, in *keysv1.ReportApiKeyUseRequest) (*keysv1.ReportApiKeyUseResponse, error) {
	if n := len(in.GetUses()); n > user.FeedBatch {
		return nil, resource.Invalid("%d uses are too many; the most is %d", n, user.FeedBatch)
	}
	uses := make(map[string]time.Time, len(in.GetUses()))
	for _, use := range in.GetUses() {
		at, err := moment(use.GetTime(), "uses.time")
		if err != nil {
			return nil, err
		}
		uses[use.GetId()] = at
	}
	return &keysv1.ReportApiKeyUseResponse{}, s.feed.Used(ctx, uses)
}
