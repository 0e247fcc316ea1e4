// Package user is the user service's domain: organizations, users, memberships
// and roles of a tenant. It owns the rules between them and the interfaces of
// the stores that it needs. It knows neither gRPC nor SQL: package usergrpc and
// package store do.
package user
