// Package identity carries the caller that the edge verified from Envoy to a
// service. The edge removes these headers from every client request before it
// sets them, so a service may trust them exactly as far as it trusts that its
// only callers are the edge and its peers (kit/rpcserver enforces that with
// mutual TLS).
package identity

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
)

// HeaderPrefix is reserved: the edge strips every request header that starts
// with it.
const HeaderPrefix = "x-weir-"

// Names of the headers (and gRPC metadata keys) that carry an Identity.
const (
	HeaderConsumer      = "x-weir-consumer"
	HeaderSubject       = "x-weir-subject"
	HeaderTenant        = "x-weir-tenant"
	HeaderTier          = "x-weir-tier"
	HeaderScopes        = "x-weir-scopes"
	HeaderAuthenticator = "x-weir-authenticator"
	// HeaderClientAddress is set by a proxy that has other proxies before it, and
	// holds the address of the client, without a port.
	HeaderClientAddress = "x-weir-client-address"
	HeaderRequestID     = "x-request-id"
)

// Identity is a verified caller. The zero value is an anonymous caller.
type Identity struct {
	// Consumer is "namespace/name" of the Consumer, or empty.
	Consumer string
	// Subject is the caller's own id: a token's subject or a key's name.
	Subject string
	// Tenant owns the data that the caller may see; opaque to services.
	Tenant string
	// Tier names the consumer's tier.
	Tier string
	// Authenticator names the method that verified the caller.
	Authenticator string
	// Scopes are the granted OAuth scopes, in order.
	Scopes []string
}

// Anonymous reports whether nothing identifies the caller.
func (id Identity) Anonymous() bool {
	return id.Consumer == "" && id.Subject == "" && id.Tenant == ""
}

// Headers lists the identity as header name and value pairs, in a fixed order
// and without the empty ones.
func (id Identity) Headers() [][2]string {
	all := [][2]string{
		{HeaderConsumer, id.Consumer},
		{HeaderSubject, id.Subject},
		{HeaderTenant, id.Tenant},
		{HeaderTier, id.Tier},
		{HeaderScopes, strings.Join(id.Scopes, " ")},
		{HeaderAuthenticator, id.Authenticator},
	}
	set := all[:0]
	for _, header := range all {
		if header[1] != "" {
			set = append(set, header)
		}
	}
	return set
}

// FromMetadata reads an identity from incoming gRPC metadata. A header that is
// present more than once is ambiguous and yields ok false.
func FromMetadata(md metadata.MD) (id Identity, ok bool) {
	ok = true
	one := func(name string) string {
		values := md.Get(name)
		switch len(values) {
		case 0:
			return ""
		case 1:
			return values[0]
		default:
			ok = false
			return ""
		}
	}
	id = Identity{
		Consumer:      one(HeaderConsumer),
		Subject:       one(HeaderSubject),
		Tenant:        one(HeaderTenant),
		Tier:          one(HeaderTier),
		Authenticator: one(HeaderAuthenticator),
		Scopes:        strings.Fields(one(HeaderScopes)),
	}
	return id, ok
}

type contextKey struct{}

// NewContext returns a context that carries id.
func NewContext(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext returns the identity that NewContext stored; ok is false when
// there is none.
func FromContext(ctx context.Context) (id Identity, ok bool) {
	id, ok = ctx.Value(contextKey{}).(Identity)
	return id, ok
}
