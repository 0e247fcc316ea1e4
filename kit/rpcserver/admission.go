package rpcserver

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"weir.dev/kit/certs"
	"weir.dev/kit/fault"
)

// healthService may be asked by every peer that may connect.
const healthService = "grpc.health.v1.Health"

// admission says which peer may call which service, beyond who may connect. It
// is nil-safe in check only: a server without reserved services admits whom TLS
// admitted.
type admission struct {
	allowed  []string
	reserved map[string][]string
	// anybody may call what is not reserved: there is no TLS to tell who it is.
	anybody bool
}

func newAdmission(cfg Config, reserved []string) *admission {
	a := &admission{allowed: cfg.AllowedPeers, reserved: map[string][]string{}, anybody: cfg.Plaintext}
	for _, service := range reserved {
		a.reserved[service] = cfg.ReservedPeers[service]
	}
	return a
}

// peers are all that may connect.
func (a *admission) peers() []string {
	all := slices.Clone(a.allowed)
	for _, peers := range a.reserved {
		for _, peer := range peers {
			if !slices.Contains(all, peer) {
				all = append(all, peer)
			}
		}
	}
	return all
}

// check refuses a call that its peer may not make.
func (a *admission) check(ctx context.Context, fullMethod string) error {
	if a == nil || len(a.reserved) == 0 {
		return nil
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	if service == healthService {
		return nil
	}
	may, reserved := a.reserved[service]
	if !reserved {
		if a.anybody {
			return nil
		}
		may = a.allowed
	}
	for _, id := range callers(ctx) {
		if slices.ContainsFunc(may, func(pattern string) bool { return certs.Matches(pattern, id) }) {
			return nil
		}
	}
	return fault.New(codes.PermissionDenied, "PEER_NOT_ALLOWED", "this peer may not call %s", service)
}

// callers are the URI SANs of the peer's verified certificate.
func callers(ctx context.Context) []string {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	var ids []string
	for _, uri := range info.State.PeerCertificates[0].URIs {
		ids = append(ids, uri.String())
	}
	return ids
}
