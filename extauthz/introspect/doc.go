// Package introspect proves opaque tokens by asking whoever issued them (RFC
// 7662). It implements extauthz.Builder.
//
// A token goes to the one endpoint that its policy names, and to no other: beside
// methods of signed tokens, JWTs of other issuers are not asked about. Answers are
// remembered, for a short while, and one question is under way for a token however
// many requests bring it.
package introspect
