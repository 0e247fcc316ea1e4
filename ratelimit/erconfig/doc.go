// Package erconfig reads the configuration of envoyproxy/ratelimit, so that its
// files serve here unchanged: domains, nested descriptors, wildcards, units,
// shadow and quota modes. It finds the limit of a request's descriptor by that
// server's rules, and knows nothing of counters.
//
// Where it deliberately differs, docs/ratelimit-compatibility.md says
// so: every mistake is reported at once, with file and line; key and value of
// an entry are told apart, so (a, b_c) is not (a_b, c); metadata is kept
// whatever metrics a limit asks for.
package erconfig
