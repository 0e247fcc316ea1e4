// Package query turns the list parameters of the services (AIP-160 filters,
// AIP-132 orders, AIP-158 page tokens) into checked values that a store can
// push down to its database. It knows fields and types, never SQL.
package query
