package kubeauth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/kubeauth"
)

// apiServer answers reviews as a test says. The real one is asked in the slow
// suite (e2e/kubernetes).
type apiServer struct {
	*httptest.Server
	folder string
	calls  atomic.Int64
	answer atomic.Value // func(review map[string]any) (int, any)
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{folder: t.TempDir()}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		own, _ := os.ReadFile(filepath.Join(s.folder, "token"))
		if r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer "+strings.TrimSpace(string(own)) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var review map[string]any
		_ = json.NewDecoder(r.Body).Decode(&review)
		status, body := s.answer.Load().(func(map[string]any) (int, any))(review)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}))
	t.Cleanup(s.Close)
	s.write(t, "token", "own-token\n")
	s.write(t, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	s.says(nil)
	return s
}

func (s *apiServer) write(t *testing.T, name, text string) {
	require.NoError(t, os.WriteFile(filepath.Join(s.folder, name), []byte(text), 0o600))
}

func (s *apiServer) does(f func(review map[string]any) (int, any)) { s.answer.Store(f) }

// says answers with a good review whose status is changed.
func (s *apiServer) says(changes map[string]any) {
	s.does(func(review map[string]any) (int, any) {
		status := map[string]any{
			"authenticated": true, "audiences": []any{"weir"},
			"user": map[string]any{
				"username": "system:serviceaccount:shop:cart", "uid": "u-1",
				"groups": []any{"system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"},
				"extra":  map[string]any{"authentication.kubernetes.io/pod-name": []any{"cart-0"}, "authentication.kubernetes.io/node-name": []any{"n1"}},
			},
		}
		for name, value := range changes {
			status[name] = value
		}
		review["status"] = status
		return http.StatusCreated, review
	})
}

func (s *apiServer) reviews(t *testing.T) *kubeauth.Reviews {
	cache, err := proofs.New(1 << 20)
	require.NoError(t, err)
	made, err := kubeauth.New(kubeauth.Options{Cache: cache, Server: kubeauth.Server{
		Address: s.URL + "/", CAFile: filepath.Join(s.folder, "ca.crt"), TokenFile: filepath.Join(s.folder, "token"),
	}})
	require.NoError(t, err)
	return made
}

func source(change func(k *rulesv1.KubernetesAuthenticator)) *rulesv1.Authenticator {
	settings := &rulesv1.KubernetesAuthenticator{
		Audiences: []string{"weir", "other"}, Claims: &rulesv1.ClaimMapping{Tenant: "namespace"}, Timeout: durationpb.New(5 * time.Second),
	}
	if change != nil {
		change(settings)
	}
	return &rulesv1.Authenticator{Name: "pods", Method: &rulesv1.Authenticator_Kubernetes{Kubernetes: settings}}
}

func build(t *testing.T, reviews *kubeauth.Reviews, siblings ...*rulesv1.Authenticator) extauthz.Method {
	own := source(nil)
	made, err := reviews.Build(own, extauthz.Place{Siblings: append(siblings, own)})
	require.NoError(t, err)
	return made
}

func accountToken(t *testing.T, changes map[string]any) string {
	claims := map[string]any{
		"iss": "https://kubernetes.default.svc.cluster.local", "aud": []any{"weir"}, "sub": "system:serviceaccount:shop:cart",
		"kubernetes.io": map[string]any{"namespace": "shop"}, "exp": authtest.Now().Add(time.Hour).Unix(),
	}
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return authtest.Key{ID: "k", Algorithm: "ES256", Private: private}.Token(t, nil, claims)
}

func call(token string, after time.Duration) *extauthz.Call {
	return &extauthz.Call{
		Now: authtest.Now().Add(after), Realm: "edge",
		Request: &extauthz.Request{Headers: []extauthz.Header{{Name: "authorization", Value: "Bearer " + token}}},
	}
}

func reasonOf(t *testing.T, err error) extauthz.Reason {
	t.Helper()
	var known *extauthz.Refusal
	require.True(t, errors.As(err, &known), "%v", err)
	return known.Reason
}

func TestServiceAccount(t *testing.T) {
	s := newAPIServer(t)
	m, token := build(t, s.reviews(t)), accountToken(t, nil)
	for range 3 {
		proof, err := m.Prove(t.Context(), call(token, 0))
		require.NoError(t, err)
		require.Equal(t, "system:serviceaccount:shop:cart", proof.Subject)
		require.Equal(t, "kubernetes", proof.Issuer)
		require.Equal(t, "shop", proof.Tenant)
		said := proof.Claims.GetFields()
		require.Equal(t, "cart", said["serviceaccount"].GetStringValue())
		require.Equal(t, "cart-0", said["pod"].GetStringValue())
		require.Equal(t, "n1", said["node"].GetStringValue())
		require.Len(t, said["groups"].GetListValue().GetValues(), 3)
	}
	require.EqualValues(t, 1, s.calls.Load())
	_, err := m.Prove(t.Context(), call(token, time.Minute))
	require.NoError(t, err)
	require.EqualValues(t, 2, s.calls.Load(), "a minute, so that a deleted pod's token does not live on")
}

func TestReviewsThatRefuse(t *testing.T) {
	user := func(name string) map[string]any { return map[string]any{"user": map[string]any{"username": name}} }
	const bad = extauthz.ReasonTokenInvalid
	for name, test := range map[string]struct {
		changes map[string]any
		want    extauthz.Reason
	}{
		"not authenticated":  {map[string]any{"authenticated": false, "error": "invalid bearer token"}, bad},
		"no audience":        {map[string]any{"audiences": nil}, extauthz.ReasonTokenAudience},
		"other audience":     {map[string]any{"audiences": []any{"https://kubernetes.default.svc"}}, extauthz.ReasonTokenAudience},
		"a person":           {user("alice"), bad},
		"an administrator":   {user("system:masters"), bad},
		"a node":             {user("system:node:n1"), bad},
		"no account":         {user("system:serviceaccount:shop:"), bad},
		"no namespace":       {user("system:serviceaccount::cart"), bad},
		"more parts":         {user("system:serviceaccount:shop:cart:x"), bad},
		"name with a prefix": {user("x-system:serviceaccount:shop:cart"), bad},
	} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			s.says(test.changes)
			m, token := build(t, s.reviews(t)), accountToken(t, nil)
			for range 2 {
				proof, err := m.Prove(t.Context(), call(token, 0))
				require.Nil(t, proof)
				require.Equal(t, test.want, reasonOf(t, err), "%v", err)
			}
			require.EqualValues(t, 1, s.calls.Load())
		})
	}
}

func TestServerThatDoesNotAnswerAsItHasTo(t *testing.T) {
	for name, test := range map[string]struct {
		does func(review map[string]any) (int, any)
		says string
	}{
		"forbidden": {func(map[string]any) (int, any) { return 403, map[string]any{"kind": "Status"} }, "system:auth-delegator"},
		"own token": {func(map[string]any) (int, any) { return 401, nil }, "own token"},
		"500":       {func(map[string]any) (int, any) { return 500, nil }, "answered 500"},
		"another kind": {func(map[string]any) (int, any) {
			return 200, map[string]any{"kind": "Status", "status": map[string]any{"authenticated": true}}
		}, "no TokenReview"},
		"a text": {func(map[string]any) (int, any) { return 200, "yes" }, "no TokenReview"},
		"huge":   {func(map[string]any) (int, any) { return 200, strings.Repeat("x", 70_000) }, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			s.does(test.does)
			m, token := build(t, s.reviews(t)), accountToken(t, nil)
			_, err := m.Prove(t.Context(), call(token, 0))
			require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))
			require.ErrorContains(t, err, test.says)
			require.NotContains(t, err.Error(), token[len(token)-20:])
			s.says(nil)
			_, err = m.Prove(t.Context(), call(token, 0))
			require.NoError(t, err, "it is not remembered")
		})
	}
}

func TestOtherTokensAreNotSent(t *testing.T) {
	s := newAPIServer(t)
	reviews := s.reviews(t)
	alone, shared := build(t, reviews), build(t, reviews, authtest.JWT("jwt", authtest.Provider("")))
	ring := authtest.NewRing(t)
	for name, token := range map[string]string{
		"of an issuer":    ring.EC.Token(t, nil, authtest.Claims(nil)),
		"opaque":          "abcdef",
		"of old, unbound": accountToken(t, map[string]any{"kubernetes.io": nil, "kubernetes.io/serviceaccount/namespace": "shop", "iss": "kubernetes/serviceaccount"}),
		"huge":            strings.Repeat("a", 20_000),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, extauthz.Present, alone.Presence(call(token, 0).Request))
			require.Equal(t, extauthz.Foreign, shared.Presence(call(token, 0).Request))
			for _, m := range []extauthz.Method{alone, shared} {
				_, err := m.Prove(t.Context(), call(token, 0))
				require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err))
			}
		})
	}
	require.Zero(t, s.calls.Load())
	require.Equal(t, extauthz.Present, shared.Presence(call(accountToken(t, nil), 0).Request), "negative control")
}

func TestExpiryEndsWhatIsRemembered(t *testing.T) {
	s := newAPIServer(t)
	m := build(t, s.reviews(t))
	token := accountToken(t, map[string]any{"exp": authtest.Now().Add(30 * time.Second).Unix()})
	_, err := m.Prove(t.Context(), call(token, 0))
	require.NoError(t, err)
	_, err = m.Prove(t.Context(), call(token, 30*time.Second))
	require.Equal(t, extauthz.ReasonTokenExpired, reasonOf(t, err))
	_, err = m.Prove(t.Context(), call(accountToken(t, map[string]any{"exp": nil}), 0))
	require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err))
}

// Kubernetes replaces a pod's own token every hour, and authorities now and then.
func TestOwnCredentialsAreReadAgain(t *testing.T) {
	s := newAPIServer(t)
	reviews := s.reviews(t)
	m := build(t, reviews)
	_, err := m.Prove(t.Context(), call(accountToken(t, nil), 0))
	require.NoError(t, err)
	s.write(t, "token", "next-token")
	_, err = m.Prove(t.Context(), call(accountToken(t, nil), 0))
	require.NoError(t, err)
	other := httptest.NewTLSServer(nil)
	defer other.Close()
	s.write(t, "ca.crt", "-----BEGIN CERTIFICATE-----\n")
	_, err = m.Prove(t.Context(), call(accountToken(t, nil), 0))
	require.ErrorContains(t, err, "holds no certificate")
	require.NoError(t, os.Remove(filepath.Join(s.folder, "token")))
	_, err = m.Prove(t.Context(), call(accountToken(t, nil), 0))
	require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))
}

func TestSettings(t *testing.T) {
	s := newAPIServer(t)
	reviews := s.reviews(t)
	for says, change := range map[string]func(k *rulesv1.KubernetesAuthenticator){
		"kubernetes.audiences: at least one": func(k *rulesv1.KubernetesAuthenticator) { k.Audiences = nil },
		"none may be empty":                  func(k *rulesv1.KubernetesAuthenticator) { k.Audiences = []string{""} },
		"kubernetes.timeout: 1m":             func(k *rulesv1.KubernetesAuthenticator) { k.Timeout = durationpb.New(time.Minute) },
		"kubernetes.cache.refusal_ttl: 1h": func(k *rulesv1.KubernetesAuthenticator) {
			k.Cache = &rulesv1.TokenCache{RefusalTtl: durationpb.New(time.Hour)}
		},
	} {
		_, err := reviews.Build(source(change), extauthz.Place{})
		require.ErrorContains(t, err, says)
	}
	cache, err := proofs.New(1 << 20)
	require.NoError(t, err)
	_, err = kubeauth.New(kubeauth.Options{Cache: cache, Server: kubeauth.Server{Address: "http://10.0.0.1", TokenFile: "x"}})
	require.ErrorContains(t, err, "kubernetes.server: ")
	_, err = kubeauth.New(kubeauth.Options{Cache: cache, Server: kubeauth.Server{Address: "https://10.0.0.1"}})
	require.ErrorContains(t, err, "kubernetes.tokenFile: is required")
	none, err := kubeauth.New(kubeauth.Options{Cache: cache})
	require.NoError(t, err, "a policy may ask for it where there is no Kubernetes")
	_, err = build(t, none).Prove(t.Context(), call(accountToken(t, nil), 0))
	require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err), "and nobody gets in by it")
}
