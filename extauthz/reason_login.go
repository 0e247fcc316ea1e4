package extauthz

import (
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

// Reasons of logins. Those up to ReasonLoggedOut are answers, not failures: the
// request never gets to the service.
const (
	// ReasonLoginRequired sends a browser to log in; a program is told that it has
	// no session.
	ReasonLoginRequired  Reason = "LOGIN_REQUIRED"
	ReasonLoginCompleted Reason = "LOGIN_COMPLETED"
	ReasonLoggedOut      Reason = "LOGGED_OUT"

	ReasonLoginFailed  Reason = "LOGIN_FAILED"
	ReasonLoginState   Reason = "LOGIN_STATE_INVALID"
	ReasonLoginRequest Reason = "LOGIN_REQUEST_INVALID"
	ReasonLogoutToken  Reason = "LOGOUT_TOKEN_INVALID"

	ReasonSessionInvalid Reason = "SESSION_INVALID"
	ReasonSessionExpired Reason = "SESSION_EXPIRED"
	ReasonCrossOrigin    Reason = "CROSS_ORIGIN"
)

// loginFault is the part of Fault that is about logins; nil for other reasons.
func (r Reason) loginFault() *fault.Error {
	switch r {
	case ReasonLoginRequired:
		return fault.New(codes.Unauthenticated, string(r), "log in with a browser")
	case ReasonLoginCompleted:
		return fault.New(codes.Unauthenticated, string(r), "the login is complete")
	case ReasonLoggedOut:
		return fault.New(codes.Unauthenticated, string(r), "the session is over")
	case ReasonLoginFailed:
		return fault.New(codes.Unauthenticated, string(r), "the login failed; begin it again")
	case ReasonLoginState:
		return fault.New(codes.InvalidArgument, string(r), "this login was not begun in this browser, or too long ago; begin it again")
	case ReasonLoginRequest:
		return fault.New(codes.InvalidArgument, string(r), "the request is not one that this path takes")
	case ReasonLogoutToken:
		return fault.New(codes.InvalidArgument, string(r), "the logout token is not valid")
	case ReasonSessionInvalid:
		return fault.New(codes.Unauthenticated, string(r), "the session is not valid; log in again")
	case ReasonSessionExpired:
		return fault.New(codes.Unauthenticated, string(r), "the session has ended; log in again")
	case ReasonCrossOrigin:
		return fault.New(codes.PermissionDenied, string(r), "a page of another origin may not do this with the session")
	}
	return nil
}
