package metadata

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/internal/answers"
	"weir.dev/extauthz/internal/httpask"
	"weir.dev/extauthz/internal/jsonvalue"
	"weir.dev/kit/authzexpr"
)

// overHTTP asks by GET, and is answered in JSON.
type overHTTP struct {
	client *http.Client
	base   *url.URL
	path   *authzexpr.Template
	query  []named
	most   int64
}

func (s *Sources) overHTTP(f *fetcher, environment *authzexpr.Environment, source *rulesv1.MetadataSource, base *url.URL, most int64) (protocol, error) {
	if len(source.GetParameters()) > 0 {
		return nil, errors.New("parameters: go with gRPC")
	}
	p := &overHTTP{client: s.client, base: base, most: most}
	var err error
	if p.path, err = f.template(environment, source.GetPath()); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	if p.query, err = f.named(environment, source.GetQuery()); err != nil {
		return nil, fmt.Errorf("query[%w", err)
	}
	return p, nil
}

func (p *overHTTP) question(ctx context.Context, input *authzexpr.Input, header map[string]string) (question, error) {
	path, err := p.path.Expand(ctx, input, segment)
	if err != nil {
		return question{}, fmt.Errorf("path: %w", err)
	}
	query := url.Values{}
	for _, parameter := range p.query {
		value, err := parameter.template.Expand(ctx, input, nil)
		if err != nil {
			return question{}, fmt.Errorf("query %q: %w", parameter.name, err)
		}
		query.Set(parameter.name, value)
	}
	target := strings.TrimSuffix(p.base.String(), "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	// Whatever the values are, the server asked is the policy's.
	if parsed, err := url.Parse(target); err != nil || parsed.Host != p.base.Host || parsed.Scheme != p.base.Scheme || parsed.User != nil {
		return question{}, errors.New("path: does not make an address of the source")
	}
	return question{about: target, header: header, ask: func(ctx context.Context) (answers.Answer[*structpb.Value], error) {
		return p.ask(ctx, target, header)
	}}, nil
}

// segment makes one segment of a path out of a value.
func segment(value string) (string, error) {
	if value == "." || value == ".." {
		return "", errors.New("is a dot segment")
	}
	return url.PathEscape(value), nil
}

func (p *overHTTP) ask(ctx context.Context, target string, header map[string]string) (answers.Answer[*structpb.Value], error) {
	var none answers.Answer[*structpb.Value]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return none, errors.New("the address cannot be used")
	}
	request.Header.Set("Accept", httpask.TypeJSON)
	for name, value := range header {
		request.Header.Set(name, value)
	}
	answer, err := httpask.Do(p.client, request, p.most)
	switch {
	case err != nil:
		return none, err
	case answer.Status != http.StatusOK:
		return none, fmt.Errorf("%s: answered %d", p.base.Host, answer.Status)
	case answer.Type != httpask.TypeJSON && !strings.HasSuffix(answer.Type, "+json"):
		return none, fmt.Errorf("%s: answered with content type %q", p.base.Host, answer.Type)
	}
	value, err := jsonvalue.Parse(answer.Body)
	if err != nil {
		return none, fmt.Errorf("%s: its answer %w", p.base.Host, err)
	}
	return answers.Answer[*structpb.Value]{Value: value, Size: 2 * len(answer.Body)}, nil
}
