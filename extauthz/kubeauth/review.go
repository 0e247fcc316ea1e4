package kubeauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/claims"
	"weir.dev/extauthz/internal/httpask"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/jose"
)

// reviewer asks about tokens for one set of audiences.
type reviewer struct {
	audiences []string
	issuer    string
	claims    claims.Mapping
	api       *api
	asker     *proofs.Asker
}

// The parts of a TokenReview that are used here.
type tokenReview struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Spec       reviewSpec   `json:"spec"`
	Status     reviewStatus `json:"status,omitzero"`
}

type reviewSpec struct {
	Token     string   `json:"token,omitempty"`
	Audiences []string `json:"audiences,omitempty"`
}

type reviewStatus struct {
	Authenticated bool       `json:"authenticated,omitempty"`
	User          reviewUser `json:"user,omitzero"`
	Audiences     []string   `json:"audiences,omitempty"`
	Error         string     `json:"error,omitempty"`
}

type reviewUser struct {
	Username string              `json:"username,omitempty"`
	UID      string              `json:"uid,omitempty"`
	Groups   []string            `json:"groups,omitempty"`
	Extra    map[string][]string `json:"extra,omitempty"`
}

const (
	reviewVersion = "authentication.k8s.io/v1"
	reviewKind    = "TokenReview"
	// accountPrefix begins the name of every ServiceAccount, and of nobody else.
	accountPrefix = "system:serviceaccount:"
)

func (r *reviewer) ask(ctx context.Context, now time.Time, token string) (proofs.Answer, error) {
	answer, err := r.api.review(ctx, tokenReview{
		APIVersion: reviewVersion, Kind: reviewKind, Spec: reviewSpec{Token: token, Audiences: r.audiences},
	})
	if err != nil {
		return proofs.Answer{}, err
	}
	status, err := read(answer)
	if err != nil {
		return proofs.Answer{}, fmt.Errorf("API server: %w", err)
	}
	if err := r.check(status); err != nil {
		return proofs.Answer{}, err
	}
	expires, err := expiry(token, now)
	if err != nil {
		return proofs.Answer{}, err
	}
	said, err := claimsOf(status)
	if err != nil {
		return proofs.Answer{}, err
	}
	proof, err := r.claims.Proof(r.issuer, said)
	if err != nil {
		return proofs.Answer{}, invalid("the review: %w", err)
	}
	return proofs.Answer{Proof: proof, Expires: expires, Size: len(answer.Body)}, nil
}

// read takes an answer for a review with a status, and for nothing else.
func read(answer httpask.Answer) (*reviewStatus, error) {
	switch answer.Status {
	case http.StatusOK, http.StatusCreated:
	case http.StatusUnauthorized:
		return nil, errors.New("does not accept extauthz's own token")
	case http.StatusForbidden:
		return nil, errors.New("extauthz's ServiceAccount may not create tokenreviews: bind it to the ClusterRole system:auth-delegator")
	default:
		return nil, fmt.Errorf("answered %d", answer.Status)
	}
	review := tokenReview{}
	if json.Unmarshal(answer.Body, &review) != nil || review.Kind != reviewKind || review.APIVersion != reviewVersion {
		return nil, errors.New("answered with something that is no TokenReview")
	}
	return &review.Status, nil
}

func invalid(format string, args ...any) error {
	return extauthz.Refuse(extauthz.ReasonTokenInvalid, fmt.Errorf(format, args...))
}

// check decides by a review. An answer that names no audience is for the API
// server's own, whatever was asked (TokenReviewStatus).
func (r *reviewer) check(status *reviewStatus) error {
	if !status.Authenticated {
		return invalid("the API server does not accept the token, or not for an audience of the policy")
	}
	if !slices.ContainsFunc(status.Audiences, func(audience string) bool { return slices.Contains(r.audiences, audience) }) {
		return extauthz.Refuse(extauthz.ReasonTokenAudience, errors.New("the review names none of the policy's audiences"))
	}
	return nil
}

// claimsOf are the user of a review in the form of claims.
func claimsOf(status *reviewStatus) (map[string]any, error) {
	account, ok := strings.CutPrefix(status.User.Username, accountPrefix)
	namespace, name, split := strings.Cut(account, ":")
	if !ok || !split || namespace == "" || name == "" || strings.Contains(name, ":") {
		return nil, invalid("the token is not that of a ServiceAccount")
	}
	said := map[string]any{
		"sub": status.User.Username, "namespace": namespace, "serviceaccount": name, "uid": status.User.UID,
	}
	groups := make([]any, len(status.User.Groups))
	for i, group := range status.User.Groups {
		groups[i] = group
	}
	said["groups"] = groups
	for from, to := range map[string]string{"pod-name": "pod", "node-name": "node"} {
		if values := status.User.Extra["authentication.kubernetes.io/"+from]; len(values) == 1 {
			said[to] = values[0]
		}
	}
	return said, nil
}

// expiry is the token's own, by which an answer is remembered no longer. The API
// server has verified the token by now.
func expiry(token string, now time.Time) (time.Time, error) {
	compact, err := jose.Split(token)
	if err != nil {
		return time.Time{}, invalid("%w", err)
	}
	claims, err := jose.ParseObject(compact.Payload)
	if err != nil {
		return time.Time{}, invalid("%w", err)
	}
	seconds, ok := claims["exp"].(float64)
	if !ok || seconds < 0 || seconds > 253402300799 {
		return time.Time{}, invalid("the token has no expiry")
	}
	expires := time.Unix(int64(seconds), 0)
	if !now.Before(expires) {
		return expires, extauthz.Refuse(extauthz.ReasonTokenExpired, errors.New("exp has passed"))
	}
	return expires, nil
}
