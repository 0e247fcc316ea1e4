package metadata

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/answers"
	"weir.dev/extauthz/internal/httpask"
	"weir.dev/extauthz/internal/jsonvalue"
	"weir.dev/kit/authzexpr"
)

// Bounds of a source.
const (
	defaultTimeout = time.Second
	maxTimeout     = 10 * time.Second
	defaultBytes   = 64 << 10
	maxBytes       = 1 << 20
	maxCache       = time.Hour
	maxTemplates   = 32
)

// Sources makes fetchers that share connections and a cache. Safe for concurrent
// use.
type Sources struct {
	client *http.Client
	cache  *answers.Cache[*structpb.Value]
}

// New makes Sources; cacheBytes bounds what is kept, config may be nil for the
// system's authorities, events may be nil.
func New(config *tls.Config, cacheBytes uint64, events answers.Events) (*Sources, error) {
	cache, err := answers.New[*structpb.Value]("metadata", cacheBytes, events)
	if err != nil {
		return nil, err
	}
	return &Sources{client: httpask.NewClient(config), cache: cache}, nil
}

// fetcher asks one source.
type fetcher struct {
	sources    *Sources
	identity   string
	base       *url.URL
	path       *authzexpr.Template
	query      []named
	headers    []named
	terms      answers.Terms
	most       int64
	otherwise  *structpb.Value
	references []string
}

type named struct {
	name     string
	template *authzexpr.Template
}

// Fetcher is extauthz.Extensions.Metadata.
func (s *Sources) Fetcher(environment *authzexpr.Environment, source *rulesv1.MetadataSource) (extauthz.Fetcher, error) {
	f := &fetcher{sources: s, otherwise: source.GetDefaultValue(), most: int64(source.GetMaxBytes())}
	if err := httpask.CheckURL(source.GetUrl()); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	base, err := url.Parse(source.GetUrl())
	if err != nil || base.RawQuery != "" {
		return nil, errors.New("url: has a query, or cannot be read")
	}
	f.base = base
	if f.most == 0 {
		f.most = defaultBytes
	}
	if f.most > maxBytes {
		return nil, fmt.Errorf("max_bytes: %d is more than %d", f.most, maxBytes)
	}
	if f.terms.Timeout, err = duration(source.GetTimeout(), defaultTimeout, maxTimeout); err != nil {
		return nil, fmt.Errorf("timeout: %w", err)
	}
	if f.terms.TTL, err = duration(source.GetCacheDuration(), 0, maxCache); err != nil {
		return nil, fmt.Errorf("cache_duration: %w", err)
	}
	if len(source.GetQuery())+len(source.GetHeaders()) > maxTemplates {
		return nil, fmt.Errorf("query: with headers there are more than %d", maxTemplates)
	}
	if f.path, err = f.template(environment, source.GetPath()); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	if f.query, err = f.named(environment, source.GetQuery()); err != nil {
		return nil, fmt.Errorf("query[%w", err)
	}
	if f.headers, err = f.named(environment, source.GetHeaders()); err != nil {
		return nil, fmt.Errorf("headers[%w", err)
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(source)
	if err != nil {
		return nil, errors.New("name: the source cannot be encoded")
	}
	sum := sha256.Sum256(raw)
	f.identity = string(sum[:])
	return f, nil
}

func duration(value *durationpb.Duration, usual, most time.Duration) (time.Duration, error) {
	switch d := value.AsDuration(); {
	case d == 0:
		return usual, nil
	case d < 0 || d > most:
		return 0, fmt.Errorf("%s is outside 0s to %s", d, most)
	default:
		return d, nil
	}
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
	target, header, err := f.question(ctx, input)
	if err != nil {
		return nil, err
	}
	key := sha256.New()
	for _, part := range []string{f.identity, target} {
		fmt.Fprintf(key, "%d:%s", len(part), part)
	}
	for _, name := range slices.Sorted(maps.Keys(header)) {
		fmt.Fprintf(key, "%d:%s%d:%s", len(name), name, len(header.Get(name)), header.Get(name))
	}
	value, err := f.sources.cache.Ask(ctx, now, string(key.Sum(nil)), f.terms, func(ctx context.Context) (answers.Answer[*structpb.Value], error) {
		return f.ask(ctx, target, header)
	})
	if err != nil && f.otherwise != nil {
		return f.otherwise, nil
	}
	return value, err
}

func (f *fetcher) question(ctx context.Context, input *authzexpr.Input) (target string, header http.Header, err error) {
	path, err := f.path.Expand(ctx, input, segment)
	if err != nil {
		return "", nil, fmt.Errorf("path: %w", err)
	}
	query := url.Values{}
	for _, parameter := range f.query {
		value, err := parameter.template.Expand(ctx, input, nil)
		if err != nil {
			return "", nil, fmt.Errorf("query %q: %w", parameter.name, err)
		}
		query.Set(parameter.name, value)
	}
	header = http.Header{"Accept": {"application/json"}}
	for _, field := range f.headers {
		value, err := field.template.Expand(ctx, input, nil)
		if err == nil && !extauthz.ValidHeaderValue(value) {
			err = errors.New("is not printable ASCII")
		}
		if err != nil {
			return "", nil, fmt.Errorf("header %q: %w", field.name, err)
		}
		header.Set(field.name, value)
	}
	target = strings.TrimSuffix(f.base.String(), "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	// Whatever the values are, the server asked is the policy's.
	if parsed, err := url.Parse(target); err != nil || parsed.Host != f.base.Host || parsed.Scheme != f.base.Scheme || parsed.User != nil {
		return "", nil, errors.New("path: does not make an address of the source")
	}
	return target, header, nil
}

// segment makes one segment of a path out of a value.
func segment(value string) (string, error) {
	if value == "." || value == ".." {
		return "", errors.New("is a dot segment")
	}
	return url.PathEscape(value), nil
}

func (f *fetcher) ask(ctx context.Context, target string, header http.Header) (answers.Answer[*structpb.Value], error) {
	var none answers.Answer[*structpb.Value]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return none, errors.New("the address cannot be used")
	}
	request.Header = header
	answer, err := httpask.Do(f.sources.client, request, f.most)
	switch {
	case err != nil:
		return none, err
	case answer.Status != http.StatusOK:
		return none, fmt.Errorf("%s: answered %d", f.base.Host, answer.Status)
	case answer.Type != "application/json" && !strings.HasSuffix(answer.Type, "+json"):
		return none, fmt.Errorf("%s: answered with content type %q", f.base.Host, answer.Type)
	}
	value, err := jsonvalue.Parse(answer.Body)
	if err != nil {
		return none, fmt.Errorf("%s: its answer %w", f.base.Host, err)
	}
	return answers.Answer[*structpb.Value]{Value: value, Size: 2 * len(answer.Body)}, nil
}
