// Package kubeauth proves the tokens of Kubernetes ServiceAccounts by asking the
// API server (TokenReview, authentication.k8s.io/v1). It implements
// extauthz.Builder.
//
// A token has to be bound to an audience of the policy: one that is for the API
// server, as every pod used to have it, is refused, or whoever it is shown to
// could use it there.
package kubeauth
