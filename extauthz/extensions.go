package extauthz

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/authzexpr"
)

// Extensions make what authorization asks beside the rules. A nil function means
// that the server cannot do it, so that rules with it are rejected. All are safe
// for concurrent use; their errors begin with the field at fault.
type Extensions struct {
	// Metadata makes the fetcher of a source. Equal sources may share what they
	// have fetched.
	Metadata func(environment *authzexpr.Environment, source *rulesv1.MetadataSource) (Fetcher, error)
	// Relationships makes the checker of a store.
	Relationships func(store *rulesv1.RelationshipStore) (Relationships, error)
	// Upstream makes what the service is told beside the identity headers: an
	// assertion or an exchanged token.
	Upstream func(upstream *rulesv1.Upstream) (Announcer, error)
}

// Fetcher asks one external source. Safe for concurrent use.
type Fetcher interface {
	// References lists what it reads of the input.
	References() []string
	// Fetch waits for the answer within ctx. The result is shared: it is never
	// changed.
	Fetch(ctx context.Context, now time.Time, input *authzexpr.Input) (*structpb.Value, error)
}

// Relationships knows who has which relation to what. Safe for concurrent use.
type Relationships interface {
	// Check reports whether the user has the relation to the object. It waits for
	// the answer within ctx; an error is not an answer.
	Check(ctx context.Context, now time.Time, user, relation, object string) (bool, error)
}

// Announcer makes headers for the service out of a decision that allows. Safe
// for concurrent use.
type Announcer interface {
	// Headers may wait for what it has to ask, within ctx. An error refuses the
	// request; one that wraps a *Refusal carries the reason. request is the
	// client's, with its credentials.
	Headers(ctx context.Context, now time.Time, request *Request, decision *Decision) ([]Header, error)
	// Names are the lower-case names of the headers that it sets; a client's own
	// are removed.
	Names() []string
}

// Use adds extensions; call it before compiling.
func (c *Compiler) Use(extensions Extensions) { c.extensions = extensions }

// metadataSource is a source by the name that expressions call it by.
type metadataSource struct {
	name    string
	fetcher Fetcher
}
