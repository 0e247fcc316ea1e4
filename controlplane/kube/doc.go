// Package kube is the Kubernetes API as a source of policy, and as the place
// where status is written. It owns watching the kinds that package policy knows,
// turning them into objects by the same parser as files, keeping the last good
// ones, electing the one replica that writes status, and writing it. It decides
// nothing about policy: what is to be said of an object comes from
// policy.Plan.Statuses and from what became of the rollout.
//
// Every replica serves proxies; the leader alone writes status.
package kube
