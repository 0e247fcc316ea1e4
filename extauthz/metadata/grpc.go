package metadata

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	metadatav1 "weir.dev/api/gen/weir/metadata/v1"
	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/internal/answers"
	"weir.dev/kit/authzexpr"
)

// maxDepth bounds how deep an answer is nested, as JSON is bounded.
const maxDepth = 32

// overGRPC asks a weir.metadata.v1.MetadataService.
type overGRPC struct {
	source     string
	host       string
	connection *connection
	parameters []named
	most       int
}

func (s *Sources) overGRPC(f *fetcher, environment *authzexpr.Environment, source *rulesv1.MetadataSource, base *url.URL, most int64) (protocol, error) {
	switch {
	case strings.Trim(base.Path, "/") != "":
		return nil, errors.New("url: has a path, which a gRPC source has not")
	case source.GetPath() != "":
		return nil, errors.New("path: goes with HTTP")
	case len(source.GetQuery()) > 0:
		return nil, errors.New("query: goes with HTTP")
	}
	for name := range source.GetHeaders() {
		if strings.HasPrefix(name, "grpc-") || strings.HasSuffix(name, "-bin") || name == "te" || name == "content-type" || name == "user-agent" {
			return nil, fmt.Errorf("headers[%q]: is gRPC's own, or of binary metadata", name)
		}
	}
	p := &overGRPC{source: source.GetName(), host: base.Host, most: int(most)}
	var err error
	if p.parameters, err = f.named(environment, source.GetParameters()); err != nil {
		return nil, fmt.Errorf("parameters[%w", err)
	}
	if p.connection, err = s.connections.to(base); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return p, nil
}

func (p *overGRPC) question(ctx context.Context, input *authzexpr.Input, header map[string]string) (question, error) {
	request := &metadatav1.LookupRequest{Source: p.source, Parameters: make(map[string]string, len(p.parameters))}
	for _, parameter := range p.parameters {
		value, err := parameter.template.Expand(ctx, input, nil)
		if err != nil {
			return question{}, fmt.Errorf("parameter %q: %w", parameter.name, err)
		}
		request.Parameters[parameter.name] = value
	}
	about, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil { // a value that is not UTF-8
		return question{}, errors.New("parameters: a value is not UTF-8 text")
	}
	return question{about: string(about), header: header, ask: func(ctx context.Context) (answers.Answer[*structpb.Value], error) {
		return p.ask(ctx, request, header)
	}}, nil
}

func (p *overGRPC) ask(ctx context.Context, request *metadatav1.LookupRequest, header map[string]string) (answers.Answer[*structpb.Value], error) {
	var none answers.Answer[*structpb.Value]
	ctx = grpcmetadata.NewOutgoingContext(ctx, grpcmetadata.New(header))
	response, err := p.connection.Lookup(ctx, request, grpc.MaxCallRecvMsgSize(p.most))
	if err != nil {
		return none, fmt.Errorf("%s: %w", p.host, plain(err))
	}
	if err := usable(response.GetValue(), maxDepth); err != nil {
		return none, fmt.Errorf("%s: its answer %w", p.host, err)
	}
	return answers.Answer[*structpb.Value]{Value: response.GetValue(), Size: 2 * proto.Size(response)}, nil
}

// plain leaves out the server's text, which may repeat what it was asked.
func plain(err error) error {
	switch code := status.Code(err); code {
	case codes.DeadlineExceeded:
		return errors.New("no answer in time")
	case codes.ResourceExhausted:
		return errors.New("answered RESOURCE_EXHAUSTED, or more than max_bytes")
	default:
		return fmt.Errorf("answered %s", code)
	}
}

// usable refuses what JSON cannot say, so that both protocols give rules values
// of the same kinds: NaN compares false with everything, which would let a rule
// that denies pass.
func usable(value *structpb.Value, depth int) error {
	if depth == 0 {
		return fmt.Errorf("is nested deeper than %d", maxDepth)
	}
	switch kind := value.GetKind().(type) {
	case nil:
		return errors.New("has a value that is not set")
	case *structpb.Value_NumberValue:
		if math.IsNaN(kind.NumberValue) || math.IsInf(kind.NumberValue, 0) {
			return errors.New("has a number that is not finite")
		}
	case *structpb.Value_ListValue:
		for _, element := range kind.ListValue.GetValues() {
			if err := usable(element, depth-1); err != nil {
				return err
			}
		}
	case *structpb.Value_StructValue:
		for _, member := range kind.StructValue.GetFields() {
			if err := usable(member, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// idle is after how long without a question a connection is closed.
const idle = 5 * time.Minute
