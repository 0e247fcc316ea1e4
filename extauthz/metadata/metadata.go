package metadata

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/answers"
	"weir.dev/extauthz/internal/httpask"
	"weir.dev/kit/authzexpr"
)

// Bounds of a source.
const (
	defaultTimeout = time.Second
	defaultBytes   = 64 << 10
	maxBytes       = 1 << 20
	maxTemplates   = 32
)

// Sources makes fetchers that share connections and a cache. Safe for concurrent
// use.
type Sources struct {
	client      *http.Client
	connections connections
	cache       *answers.Cache[*structpb.Value]
}

// New makes Sources; cacheBytes bounds what is kept, config may be nil for the
// system's authorities, events may be nil.
func New(config *tls.Config, cacheBytes uint64, events answers.Events) (*Sources, error) {
	cache, err := answers.New[*structpb.Value]("metadata", cacheBytes, events)
	if err != nil {
		return nil, err
	}
	return &Sources{client: httpask.NewClient(config), connections: connections{config: config}, cache: cache}, nil
}

// question is what one request makes of a source's templates.
type question struct {
	// about is what is asked apart from the header: an address, or parameters.
	about  string
	header map[string]string
	ask    func(ctx context.Context) (answers.Answer[*structpb.Value], error)
}

// protocol puts questions. Safe for concurrent use.
type protocol interface {
	// question has an error where the request does not say what is needed.
	question(ctx context.Context, input *authzexpr.Input, header map[string]string) (question, error)
}

// fetcher asks one source.
type fetcher struct {
	sources    *Sources
	protocol   protocol
	identity   string
	headers    []named
	terms      answers.Terms
	otherwise  *structpb.Value
	references []string
}

// named is a template of a parameter or a header.
type named struct {
	name     string
	template *authzexpr.Template
}

// Fetcher is extauthz.Extensions.Metadata.
func (s *Sources) Fetcher(environment *authzexpr.Environment, source *rulesv1.MetadataSource) (extauthz.Fetcher, error) {
	f := &fetcher{sources: s, otherwise: source.GetDefaultValue()}
	most := int64(source.GetMaxBytes())
	if most == 0 {
		most = defaultBytes
	}
	if most > maxBytes {
		return nil, fmt.Errorf("max_bytes: %d is more than %d", most, maxBytes)
	}
	base, err := httpask.CheckBase(source.GetUrl())
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if f.terms, err = answers.NewTerms(source.GetTimeout(), defaultTimeout, source.GetCacheDuration()); err != nil {
		return nil, err
	}
	if len(source.GetQuery())+len(source.GetHeaders())+len(source.GetParameters()) > maxTemplates {
		return nil, fmt.Errorf("query: with headers and parameters there are more than %d", maxTemplates)
	}
	if f.headers, err = f.named(environment, source.GetHeaders()); err != nil {
		return nil, fmt.Errorf("headers[%w", err)
	}
	switch source.GetProtocol() {
	case rulesv1.MetadataSource_PROTOCOL_UNSPECIFIED, rulesv1.MetadataSource_PROTOCOL_HTTP:
		f.protocol, err = s.overHTTP(f, environment, source, base, most)
	case rulesv1.MetadataSource_PROTOCOL_GRPC:
		f.protocol, err = s.overGRPC(f, environment, source, base, most)
	default:
		err = fmt.Errorf("protocol: %s is not known", source.GetProtocol())
	}
	if err != nil {
		return nil, err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(source)
	if err != nil {
		return nil, errors.New("name: the source cannot be encoded")
	}
	sum := sha256.Sum256(raw)
	f.identity = string(sum[:])
	return f, nil
}

func (f *fetcher) template(environment *authzexpr.Environment, text string) (*authzexpr.Template, error) {
	template, err := environment.CompileTemplate(text)
	if err != nil {
		return nil, err
	}
	f.references = append(f.references, template.References()...)
	return template, nil
}

func (f *fetcher) named(environment *authzexpr.Environment, texts map[string]string) ([]named, error) {
	var list []named
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		template, err := f.template(environment, texts[name])
		if err != nil {
			return nil, fmt.Errorf("%q]: %w", name, err)
		}
		list = append(list, named{name, template})
	}
	return list, nil
}

// References implements extauthz.Fetcher.
func (f *fetcher) References() []string { return f.references }

// Fetch implements extauthz.Fetcher. What the request does not say, so that the
// question cannot be put, is an error even where there is a default.
func (f *fetcher) Fetch(ctx context.Context, now time.Time, input *authzexpr.Input) (*structpb.Value, error) {
	header := make(map[string]string, len(f.headers))
	for _, field := range f.headers {
		value, err := field.template.Expand(ctx, input, nil)
		if err == nil && !extauthz.ValidHeaderValue(value) {
			err = errors.New("is not printable ASCII")
		}
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", field.name, err)
		}
		header[field.name] = value
	}
	asked, err := f.protocol.question(ctx, input, header)
	if err != nil {
		return nil, err
	}
	value, err := f.sources.cache.Ask(ctx, now, f.key(&asked), f.terms, asked.ask)
	if err != nil && f.otherwise != nil {
		return f.otherwise, nil
	}
	return value, err
}

// key tells questions apart; lengths keep parts from running into each other.
func (f *fetcher) key(asked *question) string {
	key := sha256.New()
	for _, part := range []string{f.identity, asked.about} {
		fmt.Fprintf(key, "%d:%s", len(part), part)
	}
	for _, name := range slices.Sorted(maps.Keys(asked.header)) {
		fmt.Fprintf(key, "%d:%s%d:%s", len(name), name, len(asked.header[name]), asked.header[name])
	}
	return string(key.Sum(nil))
}
