package relation

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/answers"
	"weir.dev/extauthz/internal/httpask"
)

const (
	defaultTimeout = time.Second
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
	base, err := httpask.CheckBase(store.GetUrl())
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
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
	if c.terms, err = answers.NewTerms(store.GetTimeout(), defaultTimeout, store.GetCacheDuration()); err != nil {
		return nil, err
	}
	return c, nil
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
	request, err := httpask.NewPost(ctx, c.endpoint, httpask.TypeJSON, body)
	if err != nil {
		return false, err
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := httpask.Do(c.stores.client, request, maxAnswerBytes)
	if err != nil {
		return false, err
	}
	if answer.Status != http.StatusOK {
		return false, fmt.Errorf("%s: answered %d with content type %q", c.host, answer.Status, answer.Type)
	}
	said, err := answer.Object(c.host)
	if err != nil {
		return false, err
	}
	allowed, ok := said["allowed"].(bool)
	if !ok {
		return false, fmt.Errorf(`%s: its answer has no "allowed" that is true or false`, c.host)
	}
	return allowed, nil
}
