package relation_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/relation"
)

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// store answers as OpenFGA's "Check" does: it knows tuples, and a model.
func store(t *testing.T, calls *atomic.Int32) string {
	tuples := map[[3]string]bool{{"user:alice", "viewer", "doc:1"}: true}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/stores/s1/check", func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var asked struct {
			TupleKey struct{ User, Relation, Object string } `json:"tuple_key"`
			Model    string                                  `json:"authorization_model_id"`
		}
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Authorization") != "Bearer t" || json.NewDecoder(r.Body).Decode(&asked) != nil || asked.Model != "m1" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"code":"unauthenticated","message":"no"}`))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"allowed": tuples[[3]string{asked.TupleKey.User, asked.TupleKey.Relation, asked.TupleKey.Object}], "resolution": "",
		})
	})
	mux.HandleFunc("POST /stores/odd/check", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"allowed":"yes"}`))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func TestCheck(t *testing.T) {
	var calls atomic.Int32
	url := store(t, &calls)
	stores, err := relation.New(nil, 1<<20, nil)
	require.NoError(t, err)
	source := &rulesv1.RelationshipStore{Url: url + "/api", StoreId: "s1", ModelId: "m1", Token: "t", CacheDuration: durationpb.New(time.Minute)}
	checker, err := stores.Checker(source)
	require.NoError(t, err)
	for range 2 {
		allowed, err := checker.Check(t.Context(), now(), "user:alice", "viewer", "doc:1")
		require.NoError(t, err)
		require.True(t, allowed)
		allowed, err = checker.Check(t.Context(), now(), "user:alice", "viewer", "doc:2")
		require.NoError(t, err)
		require.False(t, allowed)
	}
	require.EqualValues(t, 2, calls.Load(), "both answers are kept")
	_, err = checker.Check(t.Context(), now().Add(time.Minute), "user:alice", "viewer", "doc:1")
	require.NoError(t, err)
	require.EqualValues(t, 3, calls.Load())

	source.Token = "other"
	checker, err = stores.Checker(source)
	require.NoError(t, err)
	_, err = checker.Check(t.Context(), now(), "user:alice", "viewer", "doc:1")
	require.ErrorContains(t, err, "answered 401", "another token's answers are not shared")
}

func TestNoAnswerIsAnError(t *testing.T) {
	var calls atomic.Int32
	url := store(t, &calls)
	stores, err := relation.New(nil, 1<<20, nil)
	require.NoError(t, err)
	for says, source := range map[string]*rulesv1.RelationshipStore{
		"answered 404":              {Url: url, StoreId: "none"},
		`no "allowed" that is true`: {Url: url, StoreId: "odd"},
		"refused":                   {Url: "http://127.0.0.1:1", StoreId: "s1"},
	} {
		checker, err := stores.Checker(source)
		require.NoError(t, err)
		allowed, err := checker.Check(t.Context(), now(), "user:a", "b", "c:d")
		require.ErrorContains(t, err, says)
		require.False(t, allowed)
	}
	for says, source := range map[string]*rulesv1.RelationshipStore{
		"url: is not https": {Url: "http://example.com", StoreId: "a"},
		"store_id":          {Url: "https://example.com", StoreId: "a/../b"},
		"timeout":           {Url: "https://example.com", StoreId: "a", Timeout: durationpb.New(time.Minute)},
		"cache_duration":    {Url: "https://example.com", StoreId: "a", CacheDuration: durationpb.New(-1)},
		"token":             {Url: "https://example.com", StoreId: "a", Token: "a\nb"},
	} {
		_, err := stores.Checker(source)
		require.ErrorContains(t, err, says)
	}
}
