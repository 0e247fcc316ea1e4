package relation

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/answers"
	"weir.dev/extauthz/internal/httpask"
	"weir.dev/extauthz/jose"
)

const (
	defaultTimeout = time.Second
	maxTimeout     = 10 * time.Second
	maxCache       = time.Hour
	maxAnswerBytes = 16 << 10
)

// Stores makes checkers that share connections and a cache. Safe for concurrent
// use.
type Stores struct {
	client *http.Client
	cache  *answers.Cache[bool]
}

// New makes Stores; cacheBytes bounds what is kept, config may be nil for the
// system's authorities, events may be nil.
func New(config *tls.Config, cacheBytes uint64, events answers.Events) (*Stores, error) {
	cache, err := answers.New[bool]("relationships", cacheBytes, events)
	if err != nil {
		return nil, err
	}
	return &Stores{client: httpask.NewClient(config), cache: cache}, nil
}

type checker struct {
	stores          *Stores
	endpoint, model string
	token, host     string
	terms           answers.Terms
}

// Checker is extauthz.Extensions.Relationships.
func (s *Stores) Checker(store *rulesv1.RelationshipStore) (extauthz.Relationships, error) {
	if err := httpask.CheckURL(store.GetUrl()); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	base, err := url.Parse(store.GetUrl())
	if err != nil || base.RawQuery != "" {
		return nil, errors.New("url: has a query, or cannot be read")
	}
	if store.GetStoreId() == "" || strings.ContainsAny(store.GetStoreId(), "/?#%. ") {
		return nil, fmt.Errorf("store_id: %q is not the id of a store", store.GetStoreId())
	}
	if token := store.GetToken(); token != "" && !extauthz.ValidHeaderValue(token) {
		return nil, errors.New("token: is not printable ASCII")
	}
	c := &checker{
		stores: s, model: store.GetModelId(), token: store.GetToken(), host: base.Host,
		endpoint: strings.TrimSuffix(base.String(), "/") + "/stores/" + store.GetStoreId() + "/check",
	}
	if c.terms.Timeout, err = duration(store.GetTimeout(), defaultTimeout, maxTimeout); err != nil {
		return nil, fmt.Errorf("timeout: %w", err)
	}
	if c.terms.TTL, err = duration(store.GetCacheDuration(), 0, maxCache); err != nil {
		return nil, fmt.Errorf("cache_duration: %w", err)
	}
	return c, nil
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

// question is the body of a check (OpenFGA's API, "Check").
type question struct {
	TupleKey tuple  `json:"tuple_key"`
	Model    string `json:"authorization_model_id,omitempty"`
}

type tuple struct {
	User     string `json:"user"`
	Relation string `json:"relation"`
	Object   string `json:"object"`
}

// Check implements extauthz.Relationships. Both answers are kept.
func (c *checker) Check(ctx context.Context, now time.Time, user, relation, object string) (bool, error) {
	body, err := json.Marshal(question{tuple{user, relation, object}, c.model})
	if err != nil {
		return false, errors.New("the relationship cannot be encoded")
	}
	// The token is part of the key: another one may be allowed to ask less.
	key := c.endpoint + "\x00" + c.token + "\x00" + string(body)
	return c.stores.cache.Ask(ctx, now, key, c.terms, func(ctx context.Context) (answers.Answer[bool], error) {
		allowed, err := c.ask(ctx, body)
		return answers.Answer[bool]{Value: allowed, Size: 1}, err
	})
}

func (c *checker) ask(ctx context.Context, body []byte) (bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return false, errors.New("the store's address cannot be used")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := httpask.Do(c.stores.client, request, maxAnswerBytes)
	if err != nil {
		return false, err
	}
	if answer.Status != http.StatusOK || answer.Type != "application/json" {
		return false, fmt.Errorf("%s: answered %d with content type %q", c.host, answer.Status, answer.Type)
	}
	said, err := jose.ParseObject(answer.Body)
	if err != nil {
		return false, fmt.Errorf("%s: its answer %w", c.host, err)
	}
	allowed, ok := said["allowed"].(bool)
	if !ok {
		return false, fmt.Errorf(`%s: its answer has no "allowed" that is true or false`, c.host)
	}
	return allowed, nil
}
