// Package rulesfile reads the limits of RateLimitPolicies from a folder, for a
// ratelimitd that has no control plane. They become the same rules as the control
// plane makes of them, all limits of all policies, wherever those are attached;
// which requests they are about is said by the Envoy that asks, in descriptors as
// package envoyrls has them.
//
// Objects of other kinds are left alone, so that the folder can be that of a
// control plane. What a RateLimitPolicy has Envoys do (by, mode, the names of
// headers, claims and attributes) is checked for being known and means nothing here.
package rulesfile
