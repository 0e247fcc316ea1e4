// Package login logs people in with a browser: OpenID Connect's authorization
// code flow with PKCE, sessions in sealed cookies or in a shared Store, their
// refresh, and logout from either side. It is a method of authentication
// (extauthz.Method) that also answers a few paths itself: the provider's
// callback, login, logout, and back-channel logout.
//
// It knows nothing of Envoy, nor of Redis: Store is what replicas share, and
// package login/redis keeps it there. What a browser and a provider send is
// taken for hostile until a seal, a signature or a comparison says otherwise.
package login
