// Package authzexpr compiles and evaluates authorization expressions: CEL over
// the typed environment weir.rules.v1.AuthzInput. policy compiles to find
// mistakes before anything runs, extauthz evaluates; both use this package so
// that they cannot differ.
//
// Most expressions of policies are comparisons, memberships and prefixes. Those
// are compiled to Go closures of the same meaning (fast.go), which a property
// test holds to cel-go's; cel-go evaluates the others.
package authzexpr
