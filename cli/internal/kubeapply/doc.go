// Package kubeapply brings objects of policy into a Kubernetes API by
// server-side apply, as `weir apply --kubernetes` does: all of them are tried
// first (server-side dry run), conflicts with other owners of fields are named,
// what an earlier apply of the same set brought and the files hold no more may be
// deleted, and the status that controlplaned writes is waited for.
//
// It owns the conversation with the API server. What an object must say is
// decided by package policy before, and by the API server.
package kubeapply
