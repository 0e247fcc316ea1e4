package v1alpha1

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Login logs people in with a browser by OpenID Connect and keeps a session in
// cookies. Browsers without a session are sent to the provider; programs are
// answered with 401. The paths of the login are answered by Weir itself on every
// host where it protects something.
//
// +kubebuilder:validation:XValidation:rule="has(self.clientAuthentication) && self.clientAuthentication == 'PrivateKeyJWT' ? has(self.clientSecretRef) : !has(self.assertionAudience)",message="PrivateKeyJWT needs clientSecretRef, and assertionAudience goes with it alone"
type Login struct {
	// Issuer is the provider: its discovery document at
	// ISSUER/.well-known/openid-configuration says the rest. https; http is
	// accepted for loopback addresses only.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && (url(self).getScheme() == 'https' || url(self).getHostname() in ['localhost', '[::1]', '::1'] || url(self).getHostname().startsWith('127.')) && !self.contains('#') && !self.contains('?')",message="is https without query and fragment; http is for loopback addresses only"
	Issuer string `json:"issuer"`
	// ClientID is what the provider knows Weir by.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	ClientID string `json:"clientID"`
	// ClientSecretRef is what Weir proves itself with at the provider. Without it
	// the client is a public one.
	ClientSecretRef *SecretKeyRef `json:"clientSecretRef,omitempty"`
	// ClientAuthentication is Basic (default: the Authorization header), Post (the
	// form) or PrivateKeyJWT, for which clientSecretRef is a private key in PEM
	// (RSA, ECDSA or Ed25519).
	ClientAuthentication ClientAuthentication `json:"clientAuthentication,omitempty"`
	// AssertionAudience is "aud" of what PrivateKeyJWT signs. Default: the
	// provider's token endpoint; some want their issuer.
	//
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	AssertionAudience string `json:"assertionAudience,omitempty"`
	// Scopes asked for beside "openid", such as profile, email and
	// offline_access. At most 16.
	//
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:Pattern=`^[\x21\x23-\x5b\x5d-\x7e]+$`
	// +listType=set
	Scopes []string `json:"scopes,omitempty"`
	// Claims names what becomes the identity, in the ID token, and in userinfo
	// where that is asked for.
	Claims ClaimMapping `json:"claims,omitempty"`
	// Algorithms accepted for ID and logout tokens. Default RS256 and ES256.
	//
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:items:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512;EdDSA
	// +listType=set
	Algorithms []string `json:"algorithms,omitempty"`
	// Userinfo asks the provider's userinfo endpoint for more claims.
	Userinfo bool `json:"userinfo,omitempty"`
	// AuthorizationParameters are added to the authorization request, such as
	// acr_values, prompt or audience. At most 16.
	//
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(name, !(name in ['client_id', 'redirect_uri', 'response_type', 'response_mode', 'scope', 'state', 'nonce', 'code_challenge', 'code_challenge_method', 'request', 'request_uri']))",message="the login sets client_id, redirect_uri, response_type, response_mode, scope, state, nonce, code_challenge, code_challenge_method, request and request_uri itself"
	AuthorizationParameters map[string]string `json:"authorizationParameters,omitempty"`
	// Paths are what Weir answers itself.
	Paths LoginPaths `json:"paths,omitempty"`
	// Session says how sessions are kept.
	Session LoginSession `json:"session"`
	// PublicPort is the port by which browsers reach this service over https. The
	// default is the listener's for listeners of protocol HTTPS, and 443 for others,
	// where something in front ends TLS. It is part of the callback's URL.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PublicPort *int32 `json:"publicPort,omitempty"`
	// TrustedHosts are "host" or "host:port" that browsers may be sent to after a
	// login beside the request's own host, and whose pages may make changes with
	// the session. At most 16.
	//
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=261
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(:[0-9]{1,5})?$`
	// +listType=set
	TrustedHosts []string `json:"trustedHosts,omitempty"`
	// ForwardAccessToken gives the service the access token as a Bearer token.
	// Without it the service gets none.
	ForwardAccessToken bool `json:"forwardAccessToken,omitempty"`
	// Timeout of one question to the provider. Default 5s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('10s')",message="is 100ms to 10s"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
}

// LoginPaths are paths that a login answers in place of the service, whatever
// routes there are. All differ.
type LoginPaths struct {
	// Callback is where the provider sends browsers back to; it is registered
	// there as https://HOST[:PORT] plus this path. Default /oauth2/callback.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`
	Callback string `json:"callback,omitempty"`
	// Login begins a login; "return_to" in the query says where it leads. Default
	// /oauth2/login.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`
	Login string `json:"login,omitempty"`
	// Logout ends the session here and at the provider. Default /oauth2/logout.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`
	Logout string `json:"logout,omitempty"`
	// BackchannelLogout is where the provider ends sessions. Default
	// /oauth2/backchannel-logout.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`
	BackchannelLogout string `json:"backchannelLogout,omitempty"`
	// AfterLogout is the service's page to which the provider sends browsers after
	// a logout; it is registered there, too. Default /.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^/$|^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?$`
	AfterLogout string `json:"afterLogout,omitempty"`
}

// LoginSession says how sessions are kept.
type LoginSession struct {
	// Store is Cookie (default: sealed in cookies of at most 15 KiB in all) or
	// Redis, which several servers of Weir share: refreshes happen once and logouts
	// reach all of them.
	Store SessionStore `json:"store,omitempty"`
	// KeysRef are keys to seal sessions with, one a line, each 32 bytes in base64.
	// The first seals, all open: to rotate, put a new
	// one first and remove the old one when the lifetime is over. At most 8.
	KeysRef SecretKeyRef `json:"keysRef"`
	// CookieName is the cookie's name after "__Host-". The default follows from
	// issuer and clientID.
	//
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]+$`
	CookieName string `json:"cookieName,omitempty"`
	// Lifetime is how long a session lasts at most, whatever the provider says.
	// Default 12h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('720h')",message="is 1m to 720h"
	Lifetime *gatewayv1.Duration `json:"lifetime,omitempty"`
	// Refresh is how long what the provider said is taken for true before it is
	// asked again. Default: as long as the access token lives.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('720h')",message="is 1s to 720h"
	Refresh *gatewayv1.Duration `json:"refresh,omitempty"`
	// SameSite is Lax (default), or None for services whose pages are framed by,
	// or called from pages of, other sites.
	SameSite SameSite `json:"sameSite,omitempty"`
}

// SessionStore is where sessions are.
//
// +kubebuilder:validation:Enum=Cookie;Redis
type SessionStore string

// Stores of sessions.
const (
	SessionCookie SessionStore = "Cookie"
	SessionRedis  SessionStore = "Redis"
)

// SameSite says with which requests browsers send a cookie.
//
// +kubebuilder:validation:Enum=Lax;None
type SameSite string

// Values of SameSite.
const (
	SameSiteLax  SameSite = "Lax"
	SameSiteNone SameSite = "None"
)
