// Package limitexpr compiles and evaluates what a request costs a rate limit: CEL
// over the few things of a request that a limiter is told. policy compiles to find
// mistakes before anything runs and to learn what has to be sent along, ratelimit
// evaluates; both use this package so that they cannot differ.
//
// The variables and functions are those of authorization expressions (package
// authzexpr) as far as a limiter can know them: request.method, request.path,
// request.host, request.size (declared bytes of the body, -1 when that is not
// known), request.header("name") and request.param("name") (empty without one),
// identity.tier, identity.tenant, identity.claim("path") (the text of a claim, a
// number or a truth value) and consumer.attribute("name") (empty without one).
// Names are written out, so that it is known beforehand which are read.
package limitexpr
