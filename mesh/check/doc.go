// Package check looks through a whole policy for what a mesh should not have:
// routes without authentication, limits or timeouts, hosts that nobody owns,
// plaintext, and issuers of tokens that do not answer. What it finds is no error of
// the policy, which is valid; each finding has a code and may be accepted where it
// stands.
package check
